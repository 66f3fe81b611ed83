"""Works in a database: SQLite in a file, or whatever SQLAlchemy opens by URL (PostgreSQL is tested).

One process owns a database at a time, since it goes on by itself with what it finds there: it holds a lock on a file beside SQLite's,
or PostgreSQL's advisory lock. Everything here blocks; the service calls it on one thread.

SQLite's WAL is not synced at every commit: kill -9 loses nothing, and after a power cut the last words are written again, the same.
"""

from __future__ import annotations

import dataclasses
import fcntl
import time
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from cpm_gen.config.user_folders import user_folder
from cpm_gen.errors import ConfigError
from cpm_gen.works.storage.records import Piece, State, Summary, Text, Work
from cpm_gen.works.storage.tables import pieces, texts, works

_LOCK = 0x63706D67  # PostgreSQL's advisory lock
_TAIL = 200  # characters of a summary, and of a prompt in it
_WORK = [c for c in works.c if c.name != "opening"]
_SUMMARY = [c.label("prompt") if c.name == "opening" else c for c in works.c if c.name not in ("prompt", "parameters")]


class Store:
    """All works. Raises SQLAlchemyError where the database fails, from every method."""

    def __init__(self, database: str | None) -> None:
        """Open (None: the user's data folder), lock and migrate; raises ConfigError."""
        self._url = _url(database)
        self._file: IO[str] | None = None
        self._lock: sa.Connection | None = None
        try:
            if self._sqlite:
                self._lock_file()
            self._engine = sa.create_engine(self._url, pool_pre_ping=True)
            if self._sqlite:
                sa.event.listen(self._engine, "connect", _configure)
            self.check()
            self._migrate()
        except BaseException as error:
            self.close()
            if isinstance(error, NoSuchModuleError):
                raise ConfigError(f"database: {error}") from None
            if isinstance(error, ModuleNotFoundError):
                raise ConfigError(f"database {self} needs {error.name}: pip install 'cpm-gen[postgres]'") from None
            if isinstance(error, (OSError, SQLAlchemyError)):
                said = getattr(error, "orig", None) or getattr(error, "strerror", None) or error
                raise ConfigError(f"database {self}: {str(said).splitlines()[0]}") from None
            raise

    def __str__(self) -> str:
        """Where it is, without a password."""
        return (self._url.database or "") if self._sqlite else self._url.render_as_string()

    @property
    def _sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    def _lock_file(self) -> None:
        if self._url.database in (None, "", ":memory:"):
            raise ConfigError("database: works outlive the process; SQLite needs a file for that")
        path = Path(self._url.database or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.with_name(path.name + ".lock").open("w")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken() from None

    def _taken(self) -> ConfigError:
        return ConfigError(f"database {self} is in use by another cpm-gen serve; give --database another one")

    def check(self) -> None:
        """Raises SQLAlchemyError where the database does not answer, ConfigError where it is not ours any more."""
        if self._url.get_backend_name() == "postgresql":
            try:
                if self._lock is not None:
                    self._lock.execute(sa.select(1))
                    return
            except SQLAlchemyError:  # the server was restarted
                self._lock = None
            lock = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            if not lock.scalar(sa.select(sa.func.pg_try_advisory_lock(_LOCK))):
                lock.close()
                raise self._taken()
            self._lock = lock
        else:
            with self._engine.begin() as connection:
                connection.execute(sa.text("BEGIN IMMEDIATE") if self._sqlite else sa.select(1))

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations").replace("%", "%%"))
        with self._engine.begin() as connection:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError:
                raise ConfigError(
                    f"database {self} was made by a newer cpm-gen; update, or give --database another"
                ) from None

    def close(self) -> None:
        """Let go of the database; harmless a second time."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if hasattr(self, "_engine"):
            self._engine.dispose()
        if self._file is not None:
            self._file.close()

    def add(self, work: Work, most: int | None = None) -> bool:
        """Keep a new work; False where its owner has ``most`` works already."""
        row = dataclasses.asdict(work) | {"opening": _opening(work.prompt)}
        rows = [_text_row(work.id, text) for text in work.texts]
        del row["texts"]
        if most is not None and self.count(work.owner) >= most:
            return False
        with self._engine.begin() as connection:
            connection.execute(works.insert(), row)
            connection.execute(texts.insert(), rows)
        return True

    def get(self, id: str) -> Work | None:
        """A work with its texts' positions, but not what they say."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(*_WORK).where(works.c.id == id)).mappings().first()
            if row is None:
                return None
            rows = connection.execute(texts.select().where(texts.c.work == id).order_by(texts.c.place)).mappings()
            return Work(**row, texts=[_text(r) for r in rows])

    def unfinished(self) -> list[str]:
        """Ids of the works that are to be written on, oldest first."""
        with self._engine.connect() as connection:
            query = sa.select(works.c.id).where(works.c.state == "queued").order_by(works.c.created, works.c.id)
            return list(connection.scalars(query))

    def count(self, owner: str) -> int:
        """How many works somebody has."""
        with self._engine.connect() as connection:
            query = sa.select(sa.func.count()).select_from(works).where(works.c.owner == owner)
            return connection.scalar(query) or 0

    def page(self, owner: str, before: tuple[float, str] | None, limit: int) -> list[Summary]:
        """Somebody's works, newest first, of those made before that time, or then with a smaller id."""
        order = sa.tuple_(works.c.created, works.c.id)
        query = sa.select(*_SUMMARY).where(works.c.owner == owner).order_by(works.c.created.desc(), works.c.id.desc())
        if before is not None:
            query = query.where(order < sa.tuple_(*before))
        counts = sa.select(sa.func.sum(texts.c.tokens), sa.func.sum(texts.c.chars))
        with self._engine.connect() as connection:
            found = []
            for row in connection.execute(query.limit(limit)).mappings().all():
                tokens, chars = connection.execute(counts.where(texts.c.work == row["id"])).one()
                found.append(Summary(Work(**row, parameters={}), tokens or 0, chars or 0, _tail(connection, row["id"])))
            return found

    def save(self, changes: Iterable[tuple[str, State, Any, Sequence[tuple[Text, Sequence[Piece]]]]]) -> None:
        """Of several works the state, the error, and what was written of their texts since the last time."""
        now = time.time()
        if self._lock is not None:  # whoever ended its connection let another process in, perhaps
            self.check()
        with self._engine.begin() as connection:
            for id, state, error, changed in changes:
                kept = "queued" if state == "running" else state
                known = works.update().where(works.c.id == id).values(state=kept, error=error, updated=now)
                if not connection.execute(known).rowcount:  # deleted meanwhile
                    continue
                for text, new in changed:
                    row = _text_row(id, text)
                    del row["work"], row["prompt_ids"]
                    where = (texts.c.work == id) & (texts.c.place == text.place)
                    connection.execute(texts.update().where(where).values(row))
                    if new:  # a commit that was thought to have failed may be there
                        again = (
                            (pieces.c.work == id) & (pieces.c.place == text.place) & (pieces.c.token >= new[0].token)
                        )
                        connection.execute(pieces.delete().where(again))
                        connection.execute(pieces.insert(), _piece_row(id, text.place, new))

    def read(self, id: str, place: int, token: int = 0, most: int | None = None) -> list[Piece]:
        """A text's pieces from the one that holds a token on, at most so many."""
        at = (pieces.c.work == id) & (pieces.c.place == place)
        begin = sa.select(sa.func.max(pieces.c.token)).where(at & (pieces.c.token <= token)).scalar_subquery()
        query = (
            pieces.select()
            .where(at & (pieces.c.token >= sa.func.coalesce(begin, 0)))
            .order_by(pieces.c.token)
            .limit(most)
        )
        with self._engine.connect() as connection:
            return [Piece(r.token, r.char, _ids(r.token_ids), r.text) for r in connection.execute(query)]

    def delete(self, id: str) -> None:
        """Forget a work; nothing happens where there is none."""
        with self._engine.begin() as connection:
            for table in (pieces, texts):
                connection.execute(table.delete().where(table.c.work == id))
            connection.execute(works.delete().where(works.c.id == id))


def _url(database: str | None) -> URL:
    if database is not None and "://" in database:
        try:
            return make_url(database)
        except ArgumentError:
            raise ConfigError("database must be a file or a URL such as postgresql+psycopg://user@host/name") from None
    if database is None:
        return URL.create("sqlite", database=str(user_folder("data") / "works.db"))
    return URL.create("sqlite", database=str(Path(database).expanduser()))


def _configure(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for setting in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _opening(prompt: str | list[str]) -> str | list[str]:
    return prompt[:_TAIL] if isinstance(prompt, str) else [p[:_TAIL] for p in prompt]


def _tail(connection: sa.Connection, id: str) -> str:
    """The end of a work's first text."""
    where = (pieces.c.work == id) & (pieces.c.place == 0)
    query = sa.select(pieces.c.text).where(where).order_by(pieces.c.token.desc()).limit(_TAIL)
    return "".join(reversed(list(connection.scalars(query))))[-_TAIL:]


def _bytes(ids: Sequence[int]) -> bytes:
    return array("I", ids).tobytes()


def _ids(data: bytes) -> tuple[int, ...]:
    return tuple(array("I", data))


def _text_row(id: str, text: Text) -> dict[str, Any]:
    return dataclasses.asdict(text) | {"work": id, "prompt_ids": _bytes(text.prompt_ids)}


def _text(row: sa.RowMapping) -> Text:
    return Text(**{k: v for k, v in row.items() if k != "work"} | {"prompt_ids": _ids(row["prompt_ids"])})


def _piece_row(id: str, place: int, new: Sequence[Piece]) -> dict[str, Any]:
    """Pieces that follow one another, as one."""
    ids = _bytes([i for piece in new for i in piece.token_ids])
    text = "".join(piece.text for piece in new)
    return {"work": id, "place": place, "token": new[0].token, "char": new[0].char, "token_ids": ids, "text": text}
