"""The database of works: found, locked, checked and migrated when it is opened.

Opening locks the database and creates or migrates the tables with Alembic. SQLite is locked with ``flock`` on the file itself, whatever
link names it, so that no two processes write the same works. On PostgreSQL processes share works by leases
(:mod:`cpm_gen.works.storage.leases`); each holds an advisory lock in shared mode, which versions without leases want for themselves.

SQLite does not sync its WAL at every commit: ``kill -9`` loses nothing, and the tokens lost in a power cut are generated again.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from cpm_gen.config.arguments import one_line, path_argument, shown
from cpm_gen.config.user_folders import user_folder
from cpm_gen.errors import ConfigError

_LOCK = 0x63706D67  # PostgreSQL's advisory lock
_MIGRATING = _LOCK + 1  # held by the process that migrates the tables
# A process that is suspended inside a transaction must not keep the rows that it locked; neither must it keep others waiting.
_TIMEOUTS = {"idle_in_transaction_session_timeout": "10s", "lock_timeout": "10s"}


class Database:
    """An open database. engine: SQLAlchemy's. shared: whether other processes write it, too.

    Methods raise SQLAlchemyError where the database fails.
    """

    def __init__(self, database: str | None) -> None:
        """Open (None: in the user's data folder), lock and migrate; raises ConfigError."""
        self._url = _url(database)
        # descriptor that holds the lock. Closing it drops SQLite's own locks, so it is closed last
        self._file: int | None = None
        self._lock: sa.Connection | None = None
        try:
            if self._sqlite:
                self._lock_file()
            self.engine = sa.create_engine(self._url, pool_pre_ping=True)
            if self._sqlite:
                self._refuse_newer(_read_only(self._url))
                sa.event.listen(self.engine, "connect", _configure)
            else:
                sa.event.listen(self.engine, "connect", _limit_waiting)
                self._refuse_newer(self.engine)
            self.check()
            self._migrate()
        except BaseException as error:
            self.close()
            if isinstance(error, NoSuchModuleError):
                raise ConfigError(f"database: {error}") from None
            if isinstance(error, ModuleNotFoundError):
                raise ConfigError(
                    f"database {self} needs {error.name}: in the checkout, pip install -c constraints.txt -e '.[postgres]'"
                ) from None
            if isinstance(error, (OSError, SQLAlchemyError, CommandError)):  # CommandError: its migrations are damaged
                raise ConfigError(f"database {self}: {first_line(error)}") from None
            raise

    def __str__(self) -> str:
        """Where it is, without a password."""
        return (self._url.database or "") if self._sqlite else self._url.render_as_string()

    @property
    def shared(self) -> bool:
        return not self._sqlite

    @property
    def _sqlite(self) -> bool:
        return self._url.get_backend_name() == "sqlite"

    def _lock_file(self) -> None:
        database = self._url.database or ""
        if database in ("", ":memory:"):
            raise ConfigError("database: works outlive the process; SQLite needs a file for that")
        # SQLite would open another file than the one that is locked here
        if database.startswith("file:") or "uri" in self._url.query:
            raise ConfigError("database: SQLite's file: addresses are not supported; give the file's path")
        path = Path(database)
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

    def check(self) -> None:
        """Raise SQLAlchemyError where the database does not answer, ConfigError where a process owns it that shares no works."""
        if self.shared:
            try:
                if self._lock is not None:
                    self._lock.execute(sa.select(1))
                    return
            except SQLAlchemyError:  # the server was restarted
                self._lock = None
            lock = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            if not lock.scalar(sa.select(sa.func.pg_try_advisory_lock_shared(_LOCK))):
                lock.close()
                raise ConfigError(
                    f"database {self} is in use by a cpm-gen serve of an older version, which shares no works; stop it first"
                )
            self._lock = lock
        else:
            with self.engine.begin() as connection:
                connection.execute(sa.text("BEGIN IMMEDIATE"))

    def check_lock(self) -> None:
        """Do what :meth:`check` does where the lock belongs to a connection, which may have been closed."""
        if self._lock is not None:
            self.check()

    def _refuse_newer(self, engine: sa.Engine | None) -> None:
        """Raise ConfigError for a database with a migration that this version does not have. Changes nothing in it."""
        if engine is None:
            return
        known = {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}
        try:
            with engine.connect() as connection:
                found = set(MigrationContext.configure(connection).get_current_heads())
        finally:
            if engine is not self.engine:
                engine.dispose()
        if unknown := sorted(map(str, found - known)):
            raise ConfigError(
                f"database {self} was made by a newer cpm-gen (its migration {shown(unknown[0])} is unknown here); update, or give "
                "--database another"
            )

    def _migrate(self) -> None:
        config = _alembic()
        with self.engine.begin() as connection:
            if self.shared:  # one process after the other; the last one finds nothing to do
                connection.execute(sa.text("SET LOCAL lock_timeout = 0"))
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATING)))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def close(self) -> None:
        """Close and unlock the database. May be called again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if hasattr(self, "engine"):
            self.engine.dispose()
        if self._file is not None:
            os.close(self._file)
            self._file = None


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


def _limit_waiting(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    for setting, value in _TIMEOUTS.items():
        cursor.execute(f"SET {setting} = '{value}'")
    cursor.close()
    connection.commit()


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations").replace("%", "%%"))
    return config


def first_line(error: Exception) -> str:
    """The first line of what a database says of an error, for a message."""
    said = getattr(error, "orig", None) or getattr(error, "strerror", None) or error
    return one_line((str(said).splitlines() or [type(error).__name__])[0])
