"""Works in a database: SQLite by default, PostgreSQL for those who run one.

Every method blocks; the service calls them on one thread.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from cpm_gen.works.storage import leases, rows
from cpm_gen.works.storage.database import Database, first_line
from cpm_gen.works.storage.errors import StorageError
from cpm_gen.works.storage.records import Lease, StoredSummary, StoredWork, TextPiece, WorkChange
from cpm_gen.works.storage.tables import pieces, texts, works

_TAIL = 200  # characters of a text in a list of works
_LEASES = ("holder", "epoch", "lease")  # columns that are not part of a work
_SAVE_WORK = works.update().where(works.c.id == sa.bindparam("of"))
_SAVE_TEXT = texts.update().where((texts.c.work == sa.bindparam("of")) & (texts.c.place == sa.bindparam("at")))
_DROP_PIECES = pieces.delete().where(
    (pieces.c.work == sa.bindparam("of"))
    & (pieces.c.place == sa.bindparam("at"))
    & (pieces.c.token >= sa.bindparam("from"))
)
Version = tuple[Any, ...]  # differs after every change of a work that a reader sees
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
    """All works. Every method raises StorageError where the database fails. shared: whether other processes write works there, too."""

    def __init__(self, database: str | None, lease: float = 15.0) -> None:
        """Open (None: in the user's data folder), lock and migrate; raises ConfigError. ``lease``: seconds, where it is shared."""
        self._database = Database(database)
        self._lease = lease
        self.shared = self._database.shared

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
    def add(self, work: StoredWork, limit: int | None = None, lease: Lease | None = None) -> bool:
        """Store a new work, held or not; False where its owner has ``limit`` works already."""
        if limit is not None and self.count(work.owner) >= limit:
            return False
        with self._database.engine.begin() as connection:
            row = rows.work_row(work)
            if self.shared and lease is not None:
                row |= {"holder": lease.holder, "epoch": lease.epoch, "lease": leases.now() + self._lease}
            elif self.shared:
                row["lease"] = leases.now()
            connection.execute(works.insert().values(row))
            connection.execute(texts.insert(), [rows.text_row(work.id, text) for text in work.texts])
        return True

    @_raises_storage_error
    def get(self, id: str) -> StoredWork | None:
        """A work and its texts without their pieces. A damaged row is read as far as it can be (``damage``)."""
        with self._database.engine.connect() as connection:
            return self._get(connection, id)

    def _get(self, connection: sa.Connection, id: str) -> StoredWork | None:
        columns = rows.raw(works, "opening", *_LEASES)
        row = connection.execute(sa.select(*columns, *self._held()).where(works.c.id == id)).mappings().first()
        if row is None:
            return None
        query = sa.select(*rows.raw(texts)).where(texts.c.work == id).order_by(texts.c.place)
        return rows.read_work(row, connection.execute(query).mappings().all())

    def _held(self) -> list[sa.ColumnElement[Any]]:
        return [leases.held().label("held")] if self.shared else []

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
        left_out = ("prompt", "parameters", *_LEASES)
        columns = [c.label("prompt") if c.name == "opening" else c for c in rows.raw(works, *left_out)]
        query = (
            sa.select(*columns, *self._held())
            .where(works.c.owner == owner)
            .order_by(works.c.created.desc(), works.c.id.desc())
        )
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
    def save(self, changes: Iterable[WorkChange]) -> list[str]:
        """Commit the changes of several works in one transaction.

        Returns the ids of works that are left out: they were deleted, or another process took their lease.
        """
        all_of_them = list(changes)
        self._database.check_lock()
        with self._database.engine.begin() as connection:
            # locks the rows until the commit: no lease is taken between this check and the tokens
            found = leases.may_write(all_of_them, self.shared).order_by(works.c.id).with_for_update()
            kept = {row.id for row in connection.execute(found)}
            writing = [change for change in all_of_them if change.id in kept]
            changed = [(change.id, text, new) for change in writing for text, new in change.texts]
            for statement, values in (
                (_SAVE_WORK, [rows.change_row(change, time.time()) for change in writing]),
                (_SAVE_TEXT, [rows.saved_text_row(id, text) for id, text, _ in changed]),
                # an earlier commit of them may have succeeded after its timeout
                (
                    _DROP_PIECES,
                    [{"of": id, "at": text.place, "from": new[0].token} for id, text, new in changed if new],
                ),
                (pieces.insert(), [rows.piece_row(id, text.place, new) for id, text, new in changed if new]),
            ):
                if values:  # each statement for all rows: the database is asked as often for one work as for many
                    connection.execute(statement, values)
        return [change.id for change in all_of_them if change.id not in kept]

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

    # of a shared database

    @_raises_storage_error
    def claim(self, holder: str, model: str, network: str) -> tuple[StoredWork, Lease, str | None, float | None] | None:
        """Take the work of a model that waits longest: the work, its lease, who held it before, since when it waits."""
        with self._database.engine.begin() as connection:
            found = connection.execute(leases.longest_waiting(model, network)).first()
            taken = None if found is None else self._take(connection, found.id, holder)
            return None if found is None or taken is None else (*taken, found.holder, found.lease)

    @_raises_storage_error
    def take(self, id: str, holder: str) -> tuple[StoredWork, Lease] | None:
        """Take a work from whichever process holds it; None where there is no such work."""
        with self._database.engine.begin() as connection:
            return self._take(connection, id, holder)

    def _take(self, connection: sa.Connection, id: str, holder: str) -> tuple[StoredWork, Lease] | None:
        taken = connection.execute(leases.take(id, holder, self._lease)).first()
        work = None if taken is None else self._get(connection, id)
        return None if taken is None or work is None else (work, Lease(holder, taken.epoch))

    @_raises_storage_error
    def renew(self, holder: str, ids: Sequence[str]) -> dict[str, int]:
        """Renew the leases of works; returns the epochs of those that the process still holds, by id."""
        with self._database.engine.begin() as connection:
            found = connection.execute(leases.renew(holder, ids, self._lease))
            return {row.id: row.epoch for row in found}

    @_raises_storage_error
    def give_back(self, ended: Iterable[tuple[str, Lease, float | None]]) -> None:
        """End leases at once: id, lease, and since when the work waits (None: from now on)."""
        with self._database.engine.begin() as connection:
            for id, lease, since in ended:
                connection.execute(leases.give_back(id, lease, since))

    @_raises_storage_error
    def give_back_all(self, holder: str) -> None:
        """End all leases of a process at once."""
        with self._database.engine.begin() as connection:
            connection.execute(leases.give_back_all(holder))

    @_raises_storage_error
    def waiting(self, model: str, network: str) -> int:
        """How many works of a model wait for a process to take them."""
        query = sa.select(sa.func.count()).select_from(works).where(leases.waiting(model, network))
        with self._database.engine.connect() as connection:
            return connection.scalar(query) or 0

    @_raises_storage_error
    def versions(self, ids: Sequence[str]) -> dict[str, Version]:
        """Of each of these works that exists, a value that differs when it has changed."""
        columns = (works.c.id, works.c.state, works.c.epoch, works.c.updated, leases.held())
        with self._database.engine.connect() as connection:
            return {id: tuple(rest) for id, *rest in connection.execute(sa.select(*columns).where(works.c.id.in_(ids)))}


def _tail(connection: sa.Connection, id: str) -> str:
    """The end of a work's first text."""
    where = (pieces.c.work == id) & (pieces.c.place == 0)
    query = sa.select(pieces.c.text).where(where).order_by(pieces.c.token.desc()).limit(_TAIL)
    said = [text for text in connection.scalars(query) if isinstance(text, str)]
    return "".join(reversed(said))[-_TAIL:]
