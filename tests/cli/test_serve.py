"""Mistakes of ``cpm-gen serve``, before it listens."""

from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("database", "says"),
    [
        ("/proc/works.db", "database /proc/works.db"),
        ("nonsense://x/y", "database"),
        ("sqlite://", "needs a file"),
        ("postgresql+psycopg://user:secret@127.0.0.1:1/works", "127.0.0.1"),
    ],
)
def test_a_database_that_cannot_be_opened_is_a_mistake_told_in_a_line(run: Run, database: str, says: str) -> None:
    status, out, err = run("serve", "--port", "0", "--database", database)
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert says in line
    assert "secret" not in line


def test_a_file_that_is_no_database_is_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "works.db").write_text("x" * 5000)
    status, _, err = run("serve", "--port", "0", "--database", str(tmp_path / "works.db"))
    assert status == 2
    assert "not a database" in err
