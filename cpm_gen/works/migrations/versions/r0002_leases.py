"""Leases: which process may write a work, and until when."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("works", sa.Column("holder", sa.String(64)))
    op.add_column("works", sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("works", sa.Column("lease", sa.Float))


def downgrade() -> None:
    """Drop them."""
    for name in ("lease", "epoch", "holder"):
        op.drop_column("works", name)
