"""Mutated databases of works: each opens and is read to the end, or is refused by an error of ours."""

import json
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from cpm_gen.works.storage.store import Store
from tests.mutations import BINARY, check, linux, mutated, outcome, run_mutants
from tests.works.manager import OWNER
from tests.works.test_unreadable import begun

VALUES = (None, 0, -1, 7, 2**63 - 1, 1.5, float("inf"), "", "x" * 5000, "\0", "[" * 5000, b"", b"\xff\xfe\xed\xa0\x80")


def read(path: Path) -> None:
    """What the service does with a database before it listens, and for a client that reads everything."""
    store = Store(str(path))
    try:
        for id in {*store.unfinished(), "work-1", "work-2"}:
            if (work := store.get(id)) is not None:
                json.dumps([work.prompt, work.parameters, work.metadata, work.error], allow_nan=False).encode()
                for text in work.texts:
                    for piece in store.read(id, text.place):
                        piece.text.encode()
        for summary in store.page(OWNER, None, 50):
            summary.tail.encode()
        store.count(OWNER)
        begun(store, "work-3")
        store.delete("work-1")
    finally:
        store.close()


def changed_rows(dice: random.Random, path: Path) -> None:
    """Change values of any table, Alembic's too, in ways that SQLite allows."""
    connection = sqlite3.connect(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for _ in range(dice.choice((1, 1, 3))):
        table = dice.choice((*tables, "alembic_version"))
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        kind = dice.random()
        try:
            if kind < 0.7:
                connection.execute(f"UPDATE {table} SET {dice.choice(columns)} = ?", (dice.choice(VALUES),))
            elif kind < 0.8:
                connection.execute(f"DELETE FROM {table}")
            elif kind < 0.9 and table == "alembic_version":
                connection.execute("INSERT INTO alembic_version VALUES (?)", (dice.choice(("0001", "9999", b"\xff")),))
            else:
                connection.execute(dice.choice((f"DROP TABLE {table}", f"ALTER TABLE {table} RENAME TO other")))
        except (sqlite3.Error, OverflowError):  # SQLite's own constraints
            continue
        break
    connection.commit()
    connection.close()


def run_databases(folder: Path, first: int, count: int) -> dict[str, Any]:
    store = Store(str(path := folder / "original.db"))
    for id in ("work-1", "work-2"):
        begun(store, id)
    store.close()
    original = path.read_bytes()

    def attempt(dice: random.Random) -> str:
        path = folder / f"{dice.random()}.db"  # SQLite may keep an earlier one open, and its locks
        path.write_bytes(original)
        if dice.random() < 0.5:
            changed_rows(dice, path)
        else:
            pages = bytearray(original)
            at = 4096 * dice.randrange(len(pages) // 4096)  # else most mutations meet empty pages
            start, end = dice.choice(((0, 120), (at, at + 200), (at + 3600, at + 4096), (0, len(pages))))
            pages[start:end] = mutated(dice, pages[start:end], BINARY)
            path.write_bytes(pages)
        return outcome(lambda: read(path))

    return run_mutants(attempt, first, count)


@pytest.mark.slow
@linux
def test_mutants_of_a_database_are_read_or_refused(tmp_path: Path) -> None:
    check(__name__, "run_databases", tmp_path, 150)
