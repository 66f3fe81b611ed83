"""Alembic's entry: run migrations over the connection that the store gives."""

from alembic import context

from cpm_gen.works.storage.tables import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
