"""Works in one process whose database is slow or fails at a chosen moment, and whose clients act at the worst one."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cpm_gen.errors import ConfigError
from cpm_gen.outputs import Chunk
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.job import Job
from cpm_gen.works.events import StateChanged
from cpm_gen.works.storage.store import Store
from tests.waiting import PATIENCE
from tests.works.manager import OWNER, create, managing, recovered, refused, settled, tokens, undisturbed, until


def test_a_finished_work_is_reported_with_all_its_tokens(tmp_path: Path):
    async def run() -> None:
        async with managing(tmp_path / "works.db") as (works, store, _):
            store.slow["save"] = 0.05
            for seed in range(3):
                view = await settled(works, await create(works, seed=seed))
                assert view.texts[0].finish_reason == "length"
                assert len(view.texts[0].token_ids or ()) == 60

    asyncio.run(run())


def test_followers_of_a_deleted_work_are_told_nothing_else(tmp_path: Path):
    async def run() -> None:
        async with managing(tmp_path / "works.db") as (works, _, _):
            live = await create(works, max_new_tokens=None)
            await until(lambda: live.texts[0].uncommitted)  # written, and not reported yet
            at = [(live.texts[0].persisted.tokens, live.texts[0].persisted.chars)]
            await works.delete(live)
            events = [event async for event in works.follow(live, at)]
            assert [(type(e), getattr(e, "state", None)) for e in events] == [(StateChanged, "deleted")]

    asyncio.run(run())


def test_a_work_that_ends_while_it_is_paused_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def run() -> None:
        async with managing(tmp_path / "works.db") as (works, _, _):
            pausing: list[asyncio.Task[None]] = []
            deliver = Job.deliver

            def last_chunk(job: Job, chunks: list[Chunk]) -> None:
                if any(chunk.finish_reason for chunk in chunks):  # before its reader gets it
                    pausing.append(asyncio.ensure_future(works.pause(live)))
                deliver(job, chunks)

            monkeypatch.setattr(Job, "deliver", last_chunk)
            for _ in range(20):
                live = await create(works)
                await until(lambda: pausing)
                try:
                    await pausing.pop()
                except ServiceError:  # its reader was faster
                    continue
                break
            assert (await works.view(live)).state == "finished"
            await works.extend(live, 5, False)
            assert (await settled(works, live)).usage.completion_tokens == 65

    asyncio.run(run())


def test_a_work_resumed_while_its_texts_leave_the_batch_is_written_once(tmp_path: Path):
    async def run() -> None:
        async with managing(tmp_path / "works.db") as (works, store, service):
            asked: dict[str, Any] = {"n": 3, "max_new_tokens": 150}
            live = await create(works, **asked)
            await until(lambda: all(text.job and text.current.tokens > 20 for text in live.texts))
            store.slow["save"] = 0.05
            job = live.texts[0].job
            assert job is not None
            job.finish(ServiceError("engine_error", "failed on request"))
            await until(lambda: live.work.state == "failed")
            await works.resume(live)
            assert tokens(await settled(works, live)) == await undisturbed(service, **asked)

    asyncio.run(run())


def test_a_request_that_the_database_refused_changes_nothing_and_can_be_repeated(tmp_path: Path):
    async def run() -> None:
        async with managing(tmp_path / "works.db") as (works, store, _):
            live = await create(works)
            await settled(works, live)
            store.fails = {"save"}
            assert (await refused(works.extend(live, 5, False))).code == "storage_failed"
            await recovered(works, store)
            view = await settled(works, live)
            assert (view.state, view.usage.completion_tokens) == ("finished", 60)
            await works.extend(live, 5, False)
            assert (await settled(works, live)).usage.completion_tokens == 65

            live = await create(works, max_new_tokens=3000)
            await works.pause(live)
            store.fails = {"save"}
            assert (await refused(works.resume(live))).code == "storage_failed"
            await recovered(works, store)
            assert (await works.view(live)).state == "paused"
            await works.resume(live)
            await until(lambda: live.texts[0].current.tokens > 100)
            store.fails = {"delete"}
            assert (await refused(works.delete(live))).code == "storage_failed"
            store.fails = set()
            assert await works.find(live.id, OWNER) is live
            written = live.texts[0].current.tokens
            await until(lambda: live.texts[0].current.tokens > written + 20)
            await works.delete(live)
            assert store.count(OWNER) == 1

    asyncio.run(run())


def test_a_text_being_prepared_is_not_written_when_the_database_fails(tmp_path: Path):
    async def run() -> None:
        async with managing(tmp_path / "works.db") as (works, store, service):
            first = await create(works, max_new_tokens=None)
            await until(lambda: first.texts[0].current.tokens > 20)
            llm, go_on = service.require(), threading.Event()
            prepare = llm.requests

            def slowly(*arguments: Any, **named: Any) -> Any:
                go_on.wait(PATIENCE)
                return prepare(*arguments, **named)

            llm.requests = slowly  # type: ignore[method-assign]
            second = await create(works, max_new_tokens=None)
            await asyncio.sleep(0.1)
            store.fails = {"save", "check"}
            await until(lambda: first.texts[0].job is None)
            go_on.set()
            await asyncio.sleep(1.0)
            assert second.texts[0].current.tokens == 0
            store.fails = set()
            await until(lambda: second.texts[0].current.tokens > 20)

    asyncio.run(run())


@pytest.mark.slow
def test_a_database_that_another_process_took_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def run() -> None:
        async with managing(tmp_path / "works.db") as (works, store, _):
            live = await create(works, max_new_tokens=None)
            await until(lambda: live.texts[0].current.tokens > 20)
            taken = [True]

            def check(_: Store) -> None:
                if taken[0]:
                    raise ConfigError("in use by another")

            monkeypatch.setattr(Store, "check", check)
            store.fails = {"save"}
            await until(lambda: live.texts[0].job is None)
            store.fails = set()
            await asyncio.sleep(3.0)
            taken[0] = False
            written = live.texts[0].current.tokens
            await until(lambda: live.texts[0].current.tokens > written)

    asyncio.run(run())


def test_requests_do_not_queue_for_a_database_that_does_not_answer(tmp_path: Path):
    async def run() -> None:
        async with managing(tmp_path / "works.db") as (works, store, _):
            live = await create(works, max_new_tokens=None)
            works.database.timeout = 0.3
            await until(lambda: live.texts[0].uncommitted and not works.scheduler.all_persisted)
            store.slow = dict.fromkeys(("save", "add", "page"), 3.0)
            began = time.monotonic()
            asked = [create(works), *(works.page(OWNER, None, 9) for _ in range(40))]
            assert {e.code for e in await asyncio.gather(*map(refused, asked))} == {"storage_failed"}
            assert time.monotonic() - began < 6.0, "one after the other they would wait 12 seconds"

    asyncio.run(run())


def test_a_method_that_succeeds_after_its_timeout_is_undone_or_completed(tmp_path: Path):
    async def run() -> None:
        async with managing(tmp_path / "works.db") as (works, store, _):
            kept = await create(works, max_new_tokens=None)
            works.database.timeout = 0.3
            store.slow = {"add": 0.8}
            assert (await refused(create(works))).code == "storage_failed"
            await until(lambda: [s.work.id for s in Store.page(store, OWNER, None, 9)] == [kept.id])
            store.slow = {"save": 0.8}
            assert (await refused(works.pause(kept))).code == "storage_failed"
            store.slow = {}
            await recovered(works, store)
            await until(lambda: kept.state == "running")
            store.slow = {"delete": 0.8}
            assert (await refused(works.delete(kept))).code == "storage_failed"
            await until(lambda: kept.deleted and not works.scheduler.writing)
            assert Store.get(store, kept.id) is None

    asyncio.run(run())


def test_a_work_waits_while_its_model_has_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def run() -> None:
        async with managing(tmp_path / "works.db") as (works, _, _):
            live = await create(works, max_new_tokens=None)
            await until(lambda: live.texts[0].current.tokens > 5)
        with monkeypatch.context() as context:
            context.setattr("cpm_gen.runtime.loaded_model.digest", lambda _: "0" * 16)
            async with managing(tmp_path / "works.db") as (works, _, _):
                found = await works.find(live.id, OWNER)
                assert found.state == "queued" and found.work.error["code"] == "other_model"
        async with managing(tmp_path / "works.db") as (works, _, _):
            found = await works.find(live.id, OWNER)
            written = found.texts[0].current.tokens
            await until(lambda: found.texts[0].current.tokens > written)

    asyncio.run(run())


def test_requests_during_shutdown_are_told_so(tmp_path: Path):
    async def run() -> None:
        async with managing(tmp_path / "works.db") as (works, _, _):
            live = await create(works)
            await works.close()
            assert (await refused(works.view(live))).code == "shutting_down"

    asyncio.run(run())
