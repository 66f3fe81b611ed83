"""Works that cannot be read are paused with the reason; their texts stay readable and other works continue."""

import asyncio
import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.options import ModelOptions
from cpm_gen.runtime.loaded_model import digest
from cpm_gen.works.storage.records import StoredText, StoredWork, TextPiece, WorkChange
from cpm_gen.works.storage.store import Store
from cpm_gen.works.storage.tables import schema
from tests.tiny_model import tiny_model
from tests.works.manager import OWNER, create, managing, refused, settled, spec, tokens, undisturbed, until

DATA = Path(__file__).parent / "data"
DAMAGES: dict[str, tuple[str, str, object]] = {  # what, table, column, value
    "unknown field": ("works", "parameters", json.dumps(spec().write() | {"mood": "sad"})),
    "newer version": ("works", "parameters", json.dumps(spec().write() | {"version": 99})),
    "wrong type": ("works", "parameters", json.dumps(spec().write() | {"top_k": "many"})),
    "no object": ("works", "parameters", "[1, 2]"),
    "no JSON": ("works", "parameters", '{"seed": '),
    "deep JSON": ("works", "parameters", "[" * 100_000),
    "not a number": ("works", "parameters", '{"seed": NaN}'),
    "impossible value": ("works", "parameters", json.dumps(spec().write() | {"top_p": 7.0})),
    "impossible window": ("works", "parameters", json.dumps(spec().write() | {"window": {"hop": 9999}})),
    "fewer samples": ("works", "parameters", json.dumps(spec().write() | {"n": 0})),
    "damaged prompt": ("works", "prompt", "{"),
    "number as prompt": ("works", "prompt", "7"),
    "damaged metadata": ("works", "metadata", '{"a": 1}'),
    "text as time": ("works", "created", "yesterday"),
    "odd prompt ids": ("texts", "prompt_ids", b"\1\0\0\0\2"),
    "text as prompt ids": ("texts", "prompt_ids", "ids"),
    "prompt ids out of range": ("texts", "prompt_ids", b"\xff\xff\xff\x7f"),
    "no prompt ids": ("texts", "prompt_ids", b""),
    "text as count": ("texts", "tokens", "many"),
    "missing tokens": ("texts", "tokens", 9),
    "no such sample": ("texts", "sample", 5),
    "odd token ids": ("pieces", "token_ids", b"\1\0\0\0\2"),
    "token ids out of range": ("pieces", "token_ids", b"\1\0\0\0\xff\xff\xff\x7f"),
    "a gap": ("pieces", "token", 1),
    "text as bytes": ("pieces", "text", b"\xff\xfe"),
}
LOST_TEXT = {"text as bytes"}  # the damaged column is the text itself


def work(id: str, state: str = "queued") -> StoredWork:
    text = StoredText(place=0, prompt_ids=(5, 6), sample=0, max_tokens=8)
    return StoredWork(
        id=id, owner=OWNER, model="cpm-embedded", network="", state=state, created=1.0, updated=2.0, prompt="春",
        parameters=spec(max_new_tokens=8).write(), metadata={}, texts=[text],
    )  # fmt: skip


def damaged(database: Path, id: str, table: str, column: str, value: object) -> None:
    key = "id" if table == "works" else "work"
    with sqlite3.connect(database) as connection:
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (value, id))
    connection.close()


def begun(store: Store, id: str, network: str = "") -> None:
    """A work of two written tokens."""
    new = work(id)
    new.network = network
    store.add(new)
    text = StoredText(place=0, prompt_ids=(5, 6), sample=0, max_tokens=8, tokens=2, chars=2)
    store.save([WorkChange(id, "queued", None, [(text, [TextPiece(0, 0, (40, 41), "春风")])])])


def test_an_unknown_field_pauses_a_work_with_the_reason_and_resume_tries_again(tmp_path: Path):
    database = tmp_path / "works.db"

    async def run() -> None:
        async with managing(database) as (works, _, _):
            live = await create(works, max_new_tokens=300)
            await until(lambda: live.texts[0].current.tokens > 20)
        parameters = live.work.parameters
        damaged(database, live.id, "works", "parameters", json.dumps({**parameters, "mood": "sad"}))
        async with managing(database) as (works, _, service):
            found = await works.find(live.id, OWNER)
            view = await works.view(found, token_ids=True)
            whole = await undisturbed(service, max_new_tokens=300)
            error = {
                "code": "unreadable_work",
                "message": "mood: unknown field; a newer or older cpm-gen wrote it",
                "field": "parameters.mood",
            }
            assert (view.state, view.error, view.spec) == ("paused", error, None)
            assert view.parameters["mood"] == "sad"
            assert tokens(view)[0] == whole[0][: view.usage.completion_tokens] and view.usage.completion_tokens > 20
            refusal = await refused(works.resume(found))
            assert (refusal.code, refusal.field) == (error["code"], error["field"])
            assert (await works.view(found)).state == "paused"
            damaged(database, live.id, "works", "parameters", json.dumps(parameters))
            await works.resume(found)
            view = await settled(works, found)
            assert (view.state, view.error, tokens(view)) == ("finished", None, whole)

    asyncio.run(run())


def test_any_damaged_row_is_paused_with_a_reason_and_others_go_on(tmp_path: Path):
    database = tmp_path / "works.db"
    ids = {what: f"work-{number:016x}" for number, what in enumerate(DAMAGES)}

    async def run() -> None:
        async with managing(database) as (works, store, _):
            healthy = await create(works, max_new_tokens=None)
            await until(lambda: healthy.texts[0].current.tokens)
            for id in ids.values():
                begun(store, id, healthy.work.network)
        for what, (table, column, value) in DAMAGES.items():
            damaged(database, ids[what], table, column, value)
        async with managing(database) as (works, _, _):
            written = healthy.texts[0].current.tokens
            page = await works.page(OWNER, None, 100)
            assert {entry.id for entry in page.works} == {healthy.id, *ids.values()}
            for what, id in ids.items():
                view = await settled(works, await works.find(id, OWNER))
                assert (what, view.state) == (what, "paused")
                assert view.error and view.error["code"] == "unreadable_work" and view.error["message"], what
                assert what in LOST_TEXT or [text.text for text in view.texts] == ["春风"], what
            page = await works.page(OWNER, None, 100)
            assert {entry.state for entry in page.works if entry.id != healthy.id} == {"paused"}
            assert all(entry.error for entry in page.works if entry.id != healthy.id)
            assert page.works[0].id == ids["text as time"], "a time that cannot be read sorts as the newest"
            again = await works.find(healthy.id, OWNER)
            await until(lambda: again.texts[0].current.tokens > written)
            for id in ids.values():
                await works.delete(await works.find(id, OWNER))
            assert [entry.id for entry in (await works.page(OWNER, None, 100)).works] == [healthy.id]

    asyncio.run(run())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(str(tmp_path / "works.db"))
    yield store
    store.close()


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([(t.name, c.name) for t in schema.sorted_tables for c in t.c if c.name not in ("id", "work")]),
    st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary()
    | st.recursive(st.none() | st.booleans() | st.text(), st.lists).map(json.dumps) | st.just("\ud800".encode("utf-8", "surrogatepass")),
)  # fmt: skip
def test_no_value_in_any_column_keeps_a_store_from_reading(store: Store, where: tuple[str, str], value: object):
    table, column = where
    store.delete("work-1")
    begun(store, "work-1")
    try:
        damaged(Path(str(store)), "work-1", table, column, value)
    except (sqlite3.Error, UnicodeError):  # SQLite itself refuses it
        return
    found = store.get("work-1")
    assert found is not None
    json.dumps([found.prompt, found.parameters, found.metadata, found.error, found.created], allow_nan=False)
    store.unfinished()
    store.read("work-1", 0)
    for summary in store.page(found.owner, None, 5):
        json.dumps([summary.work.prompt, summary.work.metadata, summary.tail], ensure_ascii=False).encode()


def test_works_of_version_1_are_finished_to_the_same_tokens(tmp_path: Path):
    """``data`` holds a database that commit 1eaf9c8 was writing, and the texts that it wrote to the end; see ``data/record.py``."""
    expected: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
    database, model = tmp_path / "works.db", tiny_model(tmp_path / "tiny")
    shutil.copyfile(DATA / "works.db", database)
    # another version of torch may write another file of the same weights
    set_digest = "UPDATE works SET network = substr(network, 1, length(network) - length(?1)) || ?1"
    with sqlite3.connect(database) as connection:
        connection.execute(set_digest, [digest(open_checkpoint(model).files)])
    connection.close()

    async def run() -> None:
        async with managing(database, ModelOptions(model=str(model), window_limit=64)) as (works, _, _):
            page = await works.page(OWNER, None, 100)
            assert {entry.id for entry in page.works} == set(expected)
            for entry in page.works:
                live = await works.find(entry.id, OWNER)
                assert live.work.error is None
                if live.state == "paused":
                    await works.resume(live)
            for id, wanted in expected.items():
                view = await settled(works, await works.find(id, OWNER))
                got = [(t.token_ids, t.text, t.finish_reason, t.window_slides) for t in view.texts]
                names = ("token_ids", "text", "finish_reason", "window_slides")
                assert (wanted["title"], view.state) == (wanted["title"], "finished")
                assert got == [tuple(choice[name] for name in names) for choice in wanted["choices"]], wanted["title"]
                assert view.spec is not None
                assert view.spec.write() | wanted["parameters"] == view.spec.write()  # and the defaults of newer fields

    asyncio.run(run())
