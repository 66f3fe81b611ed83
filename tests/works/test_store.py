"""The database of works: what is put in comes out, migrations make the tables, damage is told."""

import dataclasses
import json
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import cpm_gen.works
from cpm_gen.errors import ConfigError
from cpm_gen.works.storage import rows
from cpm_gen.works.storage.records import StoredText, StoredWork, TextPiece, WorkChange
from cpm_gen.works.storage.store import Store
from cpm_gen.works.storage.tables import schema


def work(id: str = "work-1", created: float = 1.0, **other: object) -> StoredWork:
    texts = [StoredText(place=p, prompt_ids=(p, 29_999, 2**31 - 1), sample=p, max_tokens=None) for p in range(2)]
    given = {
        "owner": "ann", "model": "m", "network": "n", "state": "queued", "updated": 2.0, "prompt": ["春", "秋\0"],
        "parameters": {"seed": 2**53 - 1, "top_p": 0.9, "stop": ["。"]}, "metadata": {"k": "v"}, "texts": texts,
    }  # fmt: skip
    return StoredWork(**{**given, **other}, id=id, created=created)  # type: ignore[arg-type]


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "deep" / "er" / "works.db")
        return
    url = request.getfixturevalue("postgres")
    engine = sa.create_engine(url)
    schema.drop_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    engine.dispose()
    yield url


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    store = Store(database)
    yield store
    store.close()


def test_a_work_comes_out_as_it_went_in(store: Store):
    put = work(error={"code": "c", "message": "m", "field": None})
    store.add(put)
    assert store.get("work-1") == put
    assert store.get("work-2") is None
    assert store.unfinished() == ["work-1"]


def test_what_is_saved_joins(store: Store):
    put = work()
    store.add(put)
    text = put.texts[1]
    said = ["春眠", "", "不觉𠮷晓", "\n"]
    ids = [(1, 2), (3,), (29_999, 5, 6), (7,)]
    for words, tokens in zip(said, ids, strict=True):
        piece = TextPiece(text.tokens, text.chars, tokens, words)
        text.tokens, text.chars = piece.end, text.chars + len(words)
        store.save([WorkChange(put.id, "running", None, [(text, [piece])])])
    text.finish_reason, text.slides = "length", 3
    store.save([WorkChange(put.id, "finished", None, [(text, [])])])
    pieces = store.read(put.id, 1)
    assert "".join(p.text for p in pieces) == "".join(said)
    assert tuple(i for p in pieces for i in p.token_ids) == sum(ids, ())
    for token in range(text.tokens):
        first = store.read(put.id, 1, token)[0]
        assert first.token <= token < first.end
        rest = first.after(token, 0)
        assert rest.token_ids == first.token_ids[token - first.token :]
    assert store.read(put.id, 1, 99) == pieces[-1:]
    assert len(store.read(put.id, 1, 0, 2)) == 2
    assert store.read(put.id, 0) == []
    kept = store.get(put.id)
    assert kept is not None
    assert (kept.state, kept.texts[1]) == ("finished", text)
    assert kept.updated > 2.0
    assert store.unfinished() == []


def test_running_is_kept_as_queued(store: Store):
    store.add(work())
    store.save([WorkChange("work-1", "running")])
    kept = store.get("work-1")
    assert kept is not None and kept.state == "queued"


def test_a_commit_that_is_made_again_changes_nothing(store: Store):
    put = work()
    store.add(put)
    first, second, third = TextPiece(0, 0, (1, 2), "ab"), TextPiece(2, 2, (3,), "c"), TextPiece(3, 3, (4,), "d")
    for pieces in ([first], [first, second], [first, second], [third], [third]):
        text = dataclasses.replace(put.texts[0], tokens=pieces[-1].end, chars=pieces[-1].end)
        store.save([WorkChange(put.id, "queued", None, [(text, pieces)])])
        assert "".join(p.text for p in store.read(put.id, 0)) == "abcd"[: pieces[-1].end]


def test_the_list_is_somebodys_newest_first(store: Store):
    for n in range(5):
        store.add(work(f"work-{n}", created=float(n // 2)))
    store.add(work("work-9", owner="bob"))
    ids = [s.work.id for s in store.page("ann", None, 10)]
    assert ids == ["work-4", "work-3", "work-2", "work-1", "work-0"]
    assert [s.work.id for s in store.page("ann", (1.0, "work-3"), 2)] == ["work-2", "work-1"]
    assert (store.count("ann"), store.count("bob"), store.count("eve")) == (5, 1, 0)


def test_a_summary_has_counts_and_the_end(store: Store):
    put = work()
    store.add(put)
    for place, words in ((0, "长" * 150), (1, "短")):
        text = put.texts[place]
        for at in range(2):
            piece = TextPiece(at * 4, at * len(words), (1, 2, 3, 4), words)
            now = dataclasses.replace(text, tokens=piece.end, chars=piece.char + len(words))
            store.save([WorkChange(put.id, "queued", None, [(now, [piece])])])
    (summary,) = store.page("ann", None, 1)
    assert (summary.tokens, summary.chars, summary.tail) == (16, 302, "长" * 200)


def test_a_deleted_work_leaves_nothing(store: Store, database: str):
    put = work()
    store.add(put)
    store.save([WorkChange(put.id, "queued", None, [(put.texts[0], [TextPiece(0, 0, (1,), "a")])])])
    store.delete(put.id)
    store.delete(put.id)
    engine = sa.create_engine(database if "://" in database else f"sqlite:///{database}")
    with engine.connect() as connection:
        for table in schema.sorted_tables:
            assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == 0
    engine.dispose()


def test_what_was_deleted_meanwhile_is_not_saved(store: Store):
    put, other = work("work-1"), work("work-2")
    store.add(put)
    store.add(other)
    store.delete(put.id)
    new = [TextPiece(0, 0, (1,), "a")]
    store.save([WorkChange(w.id, "paused", None, [(w.texts[0], new)]) for w in (put, other)])
    assert store.get(put.id) is None
    assert store.read(put.id, 0) == []
    assert store.read(other.id, 0) == new


def test_it_is_there_when_opened_again(database: str):
    store = Store(database)
    store.add(work())
    store.close()
    store.close()
    again = Store(database)
    assert again.get("work-1") == work()
    again.close()


def test_one_process_at_a_time_on_sqlite_and_several_on_postgresql(store: Store, database: str):
    if store.shared:
        Store(database).close()
    else:
        with pytest.raises(ConfigError, match="in use by another"):
            Store(database)
    store.check()


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_a_link_to_an_open_database_does_not_give_it_to_a_second_process(tmp_path: Path, link):
    store = Store(str(tmp_path / "works.db"))
    try:
        other = tmp_path / "elsewhere" / "other.db"
        other.parent.mkdir()
        link(other, tmp_path / "works.db")
        with pytest.raises(ConfigError, match="in use by another"):
            Store(str(other))
    finally:
        store.close()


def test_what_lies_where_a_lock_file_might_be_is_left_alone(tmp_path: Path):
    precious = tmp_path / "precious"
    precious.write_text("text")
    (tmp_path / "works.db.lock").symlink_to(precious)
    Store(str(tmp_path / "works.db")).close()
    assert precious.read_text() == "text"


def test_a_new_database_is_for_its_owner_only(tmp_path: Path):
    store = Store(str(tmp_path / "works.db"))
    try:
        store.add(work())
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    finally:
        store.close()


@pytest.mark.parametrize(
    "database",
    [
        "",
        " ",
        "postgresql://localhost:x/works",
        "sqlite://",
        "a\0b",
        "~no-such-user/works.db",
        "mysql://host/works",
        "links",
    ],
)
def test_what_names_no_database_is_refused_in_a_line(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "links").symlink_to("links")
    with pytest.raises(ConfigError) as refused:
        Store(database)
    assert "\n" not in str(refused.value)


def test_who_lost_the_database_to_a_version_without_leases_does_not_write(postgres: str):
    first = Store(postgres)
    engine = sa.create_engine(postgres)
    with engine.connect() as connection:  # as a restart of the server, or a proxy that closes idle lines
        held = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory'"
        assert connection.scalars(sa.text(held)).all() == [True]
    older = engine.connect()
    assert older.scalar(sa.text("SELECT pg_try_advisory_lock(1668312423)"))  # what such a version does
    for refused in (lambda: first.save([WorkChange("work-1", "paused")]), lambda: Store(postgres)):
        with pytest.raises(ConfigError, match="in use by a cpm-gen serve of an older version"):
            refused()
    older.invalidate()
    older.close()
    engine.dispose()
    first.save([WorkChange("work-1", "paused")])
    first.close()


def test_migrations_make_the_tables(store: Store, database: str):
    engine = sa.create_engine(database if "://" in database else f"sqlite:///{database}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema) == []
    engine.dispose()


def test_a_database_of_a_newer_program_is_refused(tmp_path: Path):
    Store(str(tmp_path / "works.db")).close()
    with sqlite3.connect(tmp_path / "works.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(ConfigError, match="newer"):
        Store(str(tmp_path / "works.db"))
    with sqlite3.connect(tmp_path / "works.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '0002'")
    database.close()
    Store(str(tmp_path / "works.db")).close()  # it let go


def test_works_of_a_database_without_leases_are_kept(database: str, monkeypatch: pytest.MonkeyPatch):
    """Migrate one that stops at migration 0001."""
    from cpm_gen.works.storage import database as module

    with monkeypatch.context() as context:
        upgrade = module.command.upgrade
        context.setattr(module.command, "upgrade", lambda config, _: upgrade(config, "0001"))
        Store(database).close()
    engine = sa.create_engine(database if "://" in database else f"sqlite:///{database}")
    with engine.begin() as connection:
        row = rows.work_row(work())
        connection.execute(sa.insert(sa.table("works", *map(sa.column, row))).values(row | {"prompt": '"春"'} | {
            name: json.dumps(row[name]) for name in ("prompt", "opening", "parameters", "metadata")
        }))  # fmt: skip
    engine.dispose()
    store = Store(database)
    kept = store.get("work-1")
    assert kept is not None and (kept.prompt, kept.held) == (work().prompt, False)
    if store.shared:
        assert store.claim("a", "m", "n") is not None
    store.close()


def test_processes_that_start_together_migrate_once(postgres: str):
    engine = sa.create_engine(postgres)
    schema.drop_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    engine.dispose()
    with ThreadPoolExecutor(4) as pool:
        for store in pool.map(lambda _: Store(postgres), range(4)):
            store.close()


@pytest.mark.parametrize("version", ["x" * 5000, "\0\x1b[31m", b"\xff"])
def test_a_damaged_migration_is_shown_in_a_short_line(tmp_path: Path, version: object):
    Store(str(tmp_path / "works.db")).close()
    with sqlite3.connect(tmp_path / "works.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    database.close()
    with pytest.raises(ConfigError, match="is unknown here") as wrong:
        Store(str(tmp_path / "works.db"))
    assert len(str(wrong.value)) < 500
    assert str(wrong.value).isprintable()


@pytest.mark.parametrize("count", [2**63 - 1, float("inf"), -5, "many"])
def test_a_list_has_the_works_whose_counts_have_no_sum(store: Store, count: object):
    if not str(store).endswith(".db"):
        pytest.skip("PostgreSQL refuses such a value")
    store.add(work())
    with sqlite3.connect(str(store)) as database:
        database.execute("UPDATE texts SET tokens = ?, chars = ?", (count, count))
    database.close()
    (summary,) = store.page("ann", None, 10)
    assert (type(summary.tokens), summary.tokens >= 0) == (int, True)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_newer_database_is_left_as_it_is(tmp_path: Path, journal: str):
    path = tmp_path / "works.db"
    store = Store(str(path))
    store.add(work())
    store.close()
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"PRAGMA journal_mode={journal}")
    database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"newer cpm-gen .*9999"):
        Store(str(path))
    assert path.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} <= {"works.db", "works.db.lock", "works.db-wal", "works.db-shm"}


def test_migrations_are_one_line():
    config = Config()
    config.set_main_option("script_location", str(Path(cpm_gen.works.__file__).parent / "migrations"))
    script = ScriptDirectory.from_config(config)
    assert len(script.get_heads()) == 1


@pytest.mark.parametrize(
    "database", ["sqlite://", "sqlite:///:memory:", "no-such-kind://a/b", "://", "postgresql+nothing://x"]
)
def test_what_is_no_place_for_works_is_refused(database: str):
    with pytest.raises(ConfigError, match="database"):
        Store(database)


@pytest.mark.parametrize(
    "database",
    ["sqlite:///file:PLACE?uri=true", "sqlite:///file:PLACE", "file:PLACE", "sqlite:///PLACE?uri=true&mode=rwc"],
)
def test_an_address_that_sqlite_reads_in_its_own_way_is_refused(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="SQLite's file: addresses are not supported"):
        Store(database.replace("PLACE", str(tmp_path / "works.db")))
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_libpqs_holds_address_and_password_as_in_the_compose_file(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compose = yaml.safe_load((Path(__file__).parents[2] / "docker" / "compose.yaml").read_text(encoding="utf-8"))
    told = compose["services"]["cpm-gen"]["environment"]
    at = sa.make_url(postgres)
    secret = tmp_path / "postgres_service"
    monkeypatch.setenv("PGSERVICEFILE", str(secret))
    assert told["PGSERVICEFILE"].endswith(secret.name)
    with pytest.raises(ConfigError, match="service"):
        Store(told["CPM_GEN_DATABASE"])
    secret.write_text(
        f"[cpm-gen]\nhost={at.host}\nport={at.port}\ndbname={at.database}\nuser={at.username}\npassword=secret\n"
    )
    store = Store(told["CPM_GEN_DATABASE"])
    assert "secret" not in str(store)
    store.check()
    store.close()


def test_the_default_is_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    store = Store(None)
    assert str(store) == str(tmp_path / "cpm-gen" / "works.db")
    store.close()
    assert (tmp_path / "cpm-gen" / "works.db").exists()


def test_nobody_has_more_works_than_may_be(store: Store):
    assert store.add(work("work-1"), 1)
    assert not store.add(work("work-2"), 1)
    assert store.add(work("work-3", owner="bob"), 1)
    assert store.get("work-2") is None
