"""Works in a database: SQLite by default, PostgreSQL for those who run one.

Opening creates or migrates the tables with Alembic and locks the database, so that no two processes write the same works: SQLite with
``flock`` on the file itself, whatever link names it, PostgreSQL with an advisory lock. Every method blocks; the service calls them on one
thread.

SQLite does not sync its WAL at every commit: ``kill -9`` loses nothing, and the tokens lost in a power cut are generated again.
"""

from __future__ import annotations

import fcntl
import functools
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from cpm_gen.config.arguments import one_line, path_argument, shown
from cpm_gen.config.user_folders import user_folder
from cpm_gen.errors import ConfigError
from cpm_gen.works.storage import rows
from cpm_gen.works.storage.errors import StorageError
from cpm_gen.works.storage.records import StoredSummary, StoredWork, TextPiece, WorkChange
from cpm_gen.works.storage.tables import pieces, texts, works

_LOCK = 0x63706D67  # PostgreSQL's advisory lock
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
            raise StorageError(_first_line(error)) from error

    return call


class Store:
    """All works. Every method raises StorageError where the database fails."""

    def __init__(self, database: str | None) -> None:
        """Open (None: in the user's data folder), lock and migrate; raises ConfigError."""
        self._url = _url(database)
        self._file: int | None = (
            None  # descriptor that holds the lock. Closing it drops SQLite's own locks, so it is closed last
        )
        self._lock: sa.Connection | None = None
        try:
            if self._sqlite:
                self._lock_file()
            self._engine = sa.create_engine(self._url, pool_pre_ping=True)
            if self._sqlite:
                self._refuse_newer(_read_only(self._url))
                sa.event.listen(self._engine, "connect", _configure)
            else:
                self._refuse_newer(self._engine)
            self._check()
            self._migrate()
        except BaseException as error:
            self.close()
            if isinstance(error, NoSuchModuleError):
                raise ConfigError(f"database: {error}") from None
            if isinstance(error, ModuleNotFoundError):
                raise ConfigError(
                    f"database {self} needs {error.name}: in the checkout, pip install -e '.[postgres]'"
                ) from None
            if isinstance(error, (OSError, SQLAlchemyError)):
                raise ConfigError(f"database {self}: {_first_line(error)}") from None
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
        path = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for links in a circle
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise ConfigError(f"database {self} is not a regular file")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken() from None
        if not os.path.samestat(os.fstat(self._file), path.stat()):
            raise ConfigError(f"database {self} was replaced while it was opened; try again")

    def _taken(self) -> ConfigError:
        return ConfigError(f"database {self} is in use by another cpm-gen serve; give --database another one")

    @_raises_storage_error
    def check(self) -> None:
        """Raise StorageError where the database does not answer, ConfigError where another process owns it."""
        self._check()

    def _check(self) -> None:
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

    def _refuse_newer(self, engine: sa.Engine | None) -> None:
        """Raise ConfigError for a database with a migration that this version does not have. Changes nothing in it."""
        if engine is None:
            return
        known = {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}
        try:
            with engine.connect() as connection:
                found = set(MigrationContext.configure(connection).get_current_heads())
        finally:
            if engine is not self._engine:
                engine.dispose()
        if unknown := sorted(map(str, found - known)):
            raise ConfigError(
                f"database {self} was made by a newer cpm-gen (its migration {shown(unknown[0])} is unknown here); update, or give "
                "--database another"
            )

    def _migrate(self) -> None:
        config = _alembic()
        with self._engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Close and unlock the database. May be called again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if hasattr(self, "_engine"):
            self._engine.dispose()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @_raises_storage_error
    def add(self, work: StoredWork, limit: int | None = None) -> bool:
        """Store a new work; False where its owner has ``limit`` works already."""
        if limit is not None and self.count(work.owner) >= limit:
            return False
        with self._engine.begin() as connection:
            connection.execute(works.insert(), rows.work_row(work))
            connection.execute(texts.insert(), [rows.text_row(work.id, text) for text in work.texts])
        return True

    @_raises_storage_error
    def get(self, id: str) -> StoredWork | None:
        """A work and its texts without their pieces. A damaged row is read as far as it can be (``damage``)."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(*rows.raw(works, "opening")).where(works.c.id == id)).mappings().first()
            if row is None:
                return None
            query = sa.select(*rows.raw(texts)).where(texts.c.work == id).order_by(texts.c.place)
            return rows.read_work(row, connection.execute(query).mappings().all())

    @_raises_storage_error
    def unfinished(self) -> list[str]:
        """Ids of the queued works, oldest first."""
        with self._engine.connect() as connection:
            query = sa.select(works.c.id).where(works.c.state == "queued").order_by(works.c.created, works.c.id)
            return [id for id in connection.scalars(query) if isinstance(id, str)]

    @_raises_storage_error
    def count(self, owner: str) -> int:
        """How many works an owner has."""
        with self._engine.connect() as connection:
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
        with self._engine.connect() as connection:
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
        if self._lock is not None:  # if the connection was closed, another process may own the database
            self._check()
        with self._engine.begin() as connection:
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
        with self._engine.connect() as connection:
            found = connection.execute(query.order_by(pieces.c.token).limit(limit)).mappings()
            return [rows.read_piece(row) for row in found]

    @_raises_storage_error
    def delete(self, id: str) -> None:
        """Delete a work; an unknown id does nothing."""
        with self._engine.begin() as connection:
            for table in (pieces, texts):
                connection.execute(table.delete().where(table.c.work == id))
            connection.execute(works.delete().where(works.c.id == id))


def _url(database: str | None) -> URL:
    if database is not None and not database.strip():
        raise ConfigError("database must not be empty: give a file or a URL, or leave it out")
    if database is None:
        return URL.create("sqlite", database=str(user_folder("data") / "works.db"))
    if "://" in database:
        try:
            url = make_url(database)
        except (ArgumentError, ValueError):  # ValueError: the port is no number
            url = None
        if url is None or url.get_backend_name() not in ("sqlite", "postgresql"):
            raise ConfigError("database must be a file or a URL such as postgresql+psycopg://user@host/name")
        return url
    try:
        path = path_argument(database, "database", ConfigError).expanduser()
    except RuntimeError:
        raise ConfigError(f"database {database}: there is no such user, or the user has no home folder") from None
    return URL.create("sqlite", database=str(path))


def _read_only(url: URL) -> sa.Engine | None:
    """An engine that cannot change an SQLite file; None where there is no such file yet."""
    path = Path(url.database or "").absolute()
    if not path.is_file() or not path.stat().st_size:
        return None
    return sa.create_engine(
        URL.create("sqlite", database=f"file:{quote(str(path))}", query={"mode": "ro", "uri": "true"})
    )


def _configure(connection: Any, _: object) -> None:
    connection.text_factory = lambda data: data.decode("utf-8", "replace")  # damaged text must not hide other rows
    cursor = connection.cursor()
    for setting in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations").replace("%", "%%"))
    return config


def _first_line(error: Exception) -> str:
    said = getattr(error, "orig", None) or getattr(error, "strerror", None) or error
    return one_line((str(said).splitlines() or [type(error).__name__])[0])


def _tail(connection: sa.Connection, id: str) -> str:
    """The end of a work's first text."""
    where = (pieces.c.work == id) & (pieces.c.place == 0)
    query = sa.select(pieces.c.text).where(where).order_by(pieces.c.token.desc()).limit(_TAIL)
    said = [text for text in connection.scalars(query) if isinstance(text, str)]
    return "".join(reversed(said))[-_TAIL:]
