"""Works, their texts, and the pieces they are written in."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "works",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("owner", sa.String(255), nullable=False),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("network", sa.String(255), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("error", sa.JSON),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("updated", sa.Float, nullable=False),
        sa.Column("prompt", sa.JSON, nullable=False),
        sa.Column("opening", sa.JSON, nullable=False),
        sa.Column("parameters", sa.JSON, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
    )
    op.create_index("works_of_an_owner", "works", ["owner", "created", "id"])
    op.create_index("works_by_state", "works", ["state", "created"])
    op.create_table(
        "texts",
        sa.Column("work", sa.String(40), sa.ForeignKey("works.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("prompt_ids", sa.LargeBinary, nullable=False),
        sa.Column("sample", sa.Integer, nullable=False),
        sa.Column("most", sa.BigInteger),
        sa.Column("tokens", sa.BigInteger, nullable=False),
        sa.Column("chars", sa.BigInteger, nullable=False),
        sa.Column("finish_reason", sa.String(16)),
        sa.Column("slides", sa.BigInteger, nullable=False),
        sa.Column("window_start", sa.BigInteger, nullable=False),
        sa.Column("text_start", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "pieces",
        sa.Column("work", sa.String(40), sa.ForeignKey("works.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("token", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("char", sa.BigInteger, nullable=False),
        sa.Column("token_ids", sa.LargeBinary, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("pieces")
    op.drop_table("texts")
    op.drop_table("works")
