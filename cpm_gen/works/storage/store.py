"""Works in a database: SQLite by default, PostgreSQL for those who run one.

Every method blocks; the service calls them on one thread.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from typing import Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from cpm_gen.works.storage import rows
from cpm_gen.works.storage.database import Database, first_line
from cpm_gen.works.storage.errors import StorageError
from cpm_gen.works.storage.records import StoredSummary, StoredWork, TextPiece, WorkChange
from cpm_gen.works.storage.tables import pieces, texts, works

_TAIL = 200  # characters of a text in a list of works
P = ParamSpec("P")
T = TypeVar("T")


def _raises_storage_error(method: Callable[Concatenate[Store, P], T]) -> Callable[Concatenate[Store, P], T]:
    """Raise StorageError for SQLAlchemy's errors."""

    @functools.wraps(method)
    def call(self: Store, /, *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return method(self, *arguments, **named)
        except SQLAlchemyError as error:
            raise StorageError(first_line(error)) from error

    return call


class Store:
    """All works. Every method raises StorageError where the database fails."""

    def __init__(self, database: str | None) -> None:
        """Open (None: in the user's data folder), lock and migrate; raises ConfigError."""
        self._database = Database(database)

    def __str__(self) -> str:
        """Where it is, without a password."""
        return str(self._database)

    @_raises_storage_error
    def check(self) -> None:
        """Raise StorageError where the database does not answer, ConfigError where another process owns it."""
        self._database.check()

    def close(self) -> None:
        """Close and unlock the database. May be called again."""
        self._database.close()

    @_raises_storage_error
    def add(self, work: StoredWork, limit: int | None = None) -> bool:
        """Store a new work; False where its owner has ``limit`` works already."""
        if limit is not None and self.count(work.owner) >= limit:
            return False
        with self._database.engine.begin() as connection:
            connection.execute(works.insert(), rows.work_row(work))
            connection.execute(texts.insert(), [rows.text_row(work.id, text) for text in work.texts])
        return True

    @_raises_storage_error
    def get(self, id: str) -> StoredWork | None:
        """A work and its texts without their pieces. A damaged row is read as far as it can be (``damage``)."""
        with self._database.engine.connect() as connection:
            row = connection.execute(sa.select(*rows.raw(works, "opening")).where(works.c.id == id)).mappings().first()
            if row is None:
                return None
            query = sa.select(*rows.raw(texts)).where(texts.c.work == id).order_by(texts.c.place)
            return rows.read_work(row, connection.execute(query).mappings().all())

    @_raises_storage_error
    def unfinished(self) -> list[str]:
        """Ids of the queued works, oldest first."""
        with self._database.engine.connect() as connection:
            query = sa.select(works.c.id).where(works.c.state == "queued").order_by(works.c.created, works.c.id)
            return [id for id in connection.scalars(query) if isinstance(id, str)]

    @_raises_storage_error
    def count(self, owner: str) -> int:
        """How many works an owner has."""
        with self._database.engine.connect() as connection:
            query = sa.select(sa.func.count()).select_from(works).where(works.c.owner == owner)
            return connection.scalar(query) or 0

    @_raises_storage_error
    def page(self, owner: str, before: tuple[float, str] | None, limit: int) -> list[StoredSummary]:
        """An owner's works, newest first; with ``before`` those created before that time, or then with a smaller id."""
        columns = [c.label("prompt") if c.name == "opening" else c for c in rows.raw(works, "prompt", "parameters")]
        query = sa.select(*columns).where(works.c.owner == owner).order_by(works.c.created.desc(), works.c.id.desc())
        if before is not None:
            query = query.where(sa.tuple_(works.c.created, works.c.id) < sa.tuple_(*before))
        # of floats, because a sum of whole numbers may overflow in a damaged row, and the list would fail
        counts = sa.select(*[sa.func.sum(sa.cast(column, sa.Double)) for column in (texts.c.tokens, texts.c.chars)])
        with self._database.engine.connect() as connection:
            found = []
            for row in connection.execute(query.limit(limit)).mappings().all():
                tokens, chars = tuple(connection.execute(counts.where(texts.c.work == row["id"])).one())
                tail = _tail(connection, row["id"])
                found.append(
                    StoredSummary(rows.read_work(row, None), rows.whole_sum(tokens), rows.whole_sum(chars), tail)
                )
            return found

    @_raises_storage_error
    def save(self, changes: Iterable[WorkChange]) -> None:
        """Commit the changes of several works in one transaction. Works deleted in between are left out."""
        now = time.time()
        self._database.check_lock()
        with self._database.engine.begin() as connection:
            for change in changes:
                state = "queued" if change.state == "running" else change.state
                row = works.update().where(works.c.id == change.id).values(state=state, error=change.error, updated=now)
                if not connection.execute(row).rowcount:
                    continue
                for text, new in change.texts:
                    values = rows.text_row(change.id, text)
                    del values["work"], values["prompt_ids"]
                    where = (texts.c.work == change.id) & (texts.c.place == text.place)
                    connection.execute(texts.update().where(where).values(values))
                    if new:  # an earlier commit of them may have succeeded after its timeout
                        where = (pieces.c.work == change.id) & (pieces.c.place == text.place)
                        connection.execute(pieces.delete().where(where & (pieces.c.token >= new[0].token)))
                        connection.execute(pieces.insert(), rows.piece_row(change.id, text.place, new))

    @_raises_storage_error
    def read(self, id: str, place: int, token: int = 0, limit: int | None = None) -> list[TextPiece]:
        """At most ``limit`` pieces of a text, from the one that holds a token on."""
        at = (pieces.c.work == id) & (pieces.c.place == place)
        first = sa.select(sa.func.max(pieces.c.token)).where(at & (pieces.c.token <= token)).scalar_subquery()
        query = sa.select(*rows.raw(pieces)).where(at & (pieces.c.token >= sa.func.coalesce(first, 0)))
        with self._database.engine.connect() as connection:
            found = connection.execute(query.order_by(pieces.c.token).limit(limit)).mappings()
            return [rows.read_piece(row) for row in found]

    @_raises_storage_error
    def delete(self, id: str) -> None:
        """Delete a work; an unknown id does nothing."""
        with self._database.engine.begin() as connection:
            for table in (pieces, texts):
                connection.execute(table.delete().where(table.c.work == id))
            connection.execute(works.delete().where(works.c.id == id))


def _tail(connection: sa.Connection, id: str) -> str:
    """The end of a work's first text."""
    where = (pieces.c.work == id) & (pieces.c.place == 0)
    query = sa.select(pieces.c.text).where(where).order_by(pieces.c.token.desc()).limit(_TAIL)
    said = [text for text in connection.scalars(query) if isinstance(text, str)]
    return "".join(reversed(said))[-_TAIL:]
