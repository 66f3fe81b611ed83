"""The tables. A change here needs a migration in ``migrations/versions``; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

schema = MetaData()

works = Table(
    "works",
    schema,
    Column("id", String(40), primary_key=True),
    Column("owner", String(255), nullable=False),  # name of the API key that created it
    Column("model", String(255), nullable=False),
    Column("network", String(255), nullable=False),  # properties of the model that must be the same to continue
    Column("state", String(16), nullable=False),  # queued (which includes running), paused, finished, failed
    Column("error", JSON(none_as_null=True)),  # why it failed or was paused
    Column("created", Float, nullable=False),  # seconds since 1970
    Column("updated", Float, nullable=False),
    Column("prompt", JSON, nullable=False),  # a text, or a list of texts
    Column("opening", JSON, nullable=False),  # the beginning of the prompt, or of each, for lists of works
    Column("parameters", JSON, nullable=False),  # a WorkSpec, which has a version of its own
    Column("metadata", JSON, nullable=False),  # the client's own
    Column("holder", String(64)),  # process that may write it; NULL: none, or the database belongs to one process
    Column("epoch", BigInteger, nullable=False, server_default="0"),  # how often a process took it
    # seconds since 1970 by the database's clock: until when it is held, or since when it waits for a holder
    Column("lease", Float),
    Index("works_of_an_owner", "owner", "created", "id"),
    Index("works_by_state", "state", "created"),
)

texts = Table(
    "texts",
    schema,
    Column("work", String(40), ForeignKey("works.id", ondelete="CASCADE"), primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("prompt_ids", LargeBinary, nullable=False),  # 32 bits each, little-endian
    Column("sample", Integer, nullable=False),
    Column("most", BigInteger),  # tokens to write; NULL: no limit
    Column("tokens", BigInteger, nullable=False),  # written so far
    Column("chars", BigInteger, nullable=False),
    Column("finish_reason", String(16)),
    Column("slides", BigInteger, nullable=False),
    Column("window_start", BigInteger, nullable=False),
    Column("text_start", BigInteger, nullable=False),
)

pieces = Table(  # what was written between two commits
    "pieces",
    schema,
    Column("work", String(40), ForeignKey("works.id", ondelete="CASCADE"), primary_key=True),
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("token", BigInteger, primary_key=True, autoincrement=False),  # how many tokens stand before it
    Column("char", BigInteger, nullable=False),  # how many characters stand before it
    Column("token_ids", LargeBinary, nullable=False),  # 32 bits each, little-endian
    Column("text", Text, nullable=False),
)
