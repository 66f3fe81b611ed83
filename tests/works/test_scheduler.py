"""Works in one process whose database is slow or fails at a chosen moment, and whose clients choose the worst one."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from cpm_gen.config.options import ModelOptions
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.errors import ConfigError
from cpm_gen.outputs import Chunk
from cpm_gen.server.routes.generate import generation_spec
from cpm_gen.server.schemas.works import WorkAnswer, WorkBody
from cpm_gen.serving.api_keys import ApiKeys
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.job import Job
from cpm_gen.serving.service import Service
from cpm_gen.works.events import follow
from cpm_gen.works.live import LiveWork
from cpm_gen.works.manager import Works
from cpm_gen.works.storage.store import Store
from tests.service_process import PATIENCE


class Moody(Store):
    """A database that is slow, or fails, in the methods named."""

    slow: dict[str, float]
    fails: set[str]

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if name not in ("save", "add", "delete", "check", "read", "get", "page") or not hasattr(self, "fails"):
            return method

        def call(*arguments: Any) -> Any:
            if name in self.fails:
                raise OperationalError("SELECT", {}, Exception("as the test wants it"))
            time.sleep(self.slow.get(name, 0.0))
            return method(*arguments)

        return call


@asynccontextmanager
async def serving(path: Path) -> AsyncGenerator[tuple[Works, Moody, Service], None]:
    options = ServeOptions()
    store = Moody(str(path / "works.db"))
    store.slow, store.fails = {}, set()
    service = Service(options, ModelOptions(), ApiKeys(streams=9))
    works = Works(service, store)
    await service.load()
    await works.open()
    try:
        yield works, store, service
    finally:
        store.slow, store.fails = {}, set()
        if not works._desk.closing:
            await works.close()
        assert await service.close(20)


def body(**other: Any) -> WorkBody:
    return WorkBody.model_validate({"prompt": "话说天下大势，", "max_new_tokens": 60, "seed": 7} | other)


async def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0)
    return value


async def settled(works: Works, live: LiveWork) -> WorkAnswer:
    deadline = time.monotonic() + PATIENCE
    while (answer := await works.answer(live, token_ids=True)).state in ("queued", "running"):
        assert time.monotonic() < deadline, "waited in vain"
    return answer


async def undisturbed(service: Service, **other: Any) -> list[list[int]]:
    given = body(**other)
    job = await service.start(generation_spec(given, given.max_new_tokens), service.keys.find(None))
    found: dict[int, list[int]] = {}
    while (chunks := await job.chunks()) is not None:
        for chunk in chunks:
            found.setdefault(chunk.place, []).extend(chunk.token_ids)
    service.cancel(job)
    return [found[place] for place in sorted(found)]


async def recovered(works: Works, store: Moody) -> None:
    store.fails = set()
    await until(lambda: works._desk._keeps and not works._desk._dirty)


async def refused(asked: Awaitable[Any]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await asked
    return caught.value


def test_a_work_that_is_told_to_be_finished_is_told_whole(tmp_path: Path):
    async def run() -> None:
        async with serving(tmp_path) as (works, store, _):
            store.slow["save"] = 0.05
            for seed in range(3):
                answer = await settled(works, await works.create(body(seed=seed), "anonymous"))
                assert answer.choices[0].finish_reason == "length"
                assert len(answer.choices[0].token_ids or ()) == 60

    asyncio.run(run())


def test_that_a_work_was_deleted_is_the_last_that_is_told_of_it(tmp_path: Path):
    async def run() -> None:
        async with serving(tmp_path) as (works, _, _):
            live = await works.create(body(max_new_tokens=None), "anonymous")
            await until(lambda: live.texts[0].tail)  # written, and not told yet
            at = [(live.texts[0].kept.tokens, live.texts[0].kept.chars)]
            await works.delete(live)
            told = [event async for event in follow(works._desk, live, at, 9.0)]
            assert len(told) == 1 and '"deleted"' in told[0]

    asyncio.run(run())


def test_a_work_that_ended_as_it_was_paused_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def run() -> None:
        async with serving(tmp_path) as (works, _, _):
            pausing: list[asyncio.Task[None]] = []
            deliver = Job.deliver

            def last_words(job: Job, chunks: list[Chunk]) -> None:
                if any(chunk.finish_reason for chunk in chunks):  # and before its reader hears of it
                    pausing.append(asyncio.ensure_future(works.pause(live)))
                deliver(job, chunks)

            monkeypatch.setattr(Job, "deliver", last_words)
            for _ in range(20):
                live = await works.create(body(), "anonymous")
                await until(lambda: pausing)
                try:
                    await pausing.pop()
                except ServiceError:  # its reader was awake already, and first
                    continue
                break
            assert (await works.answer(live)).state == "finished"
            await works.extend(live, 5, False)
            assert (await settled(works, live)).usage.completion_tokens == 65

    asyncio.run(run())


def test_resumed_while_its_other_texts_still_end_each_is_written_once(tmp_path: Path):
    async def run() -> None:
        async with serving(tmp_path) as (works, store, service):
            asked = {"n": 3, "max_new_tokens": 1000}
            live = await works.create(body(**asked), "anonymous")
            await until(lambda: all(text.job and text.now.tokens > 20 for text in live.texts))
            store.slow["save"] = 0.05
            works._desk._fail(live, ServiceError("engine_error", "as the test wants it"))
            await works.resume(live)
            answer = await settled(works, live)
            assert [choice.token_ids for choice in answer.choices] == await undisturbed(service, **asked)

    asyncio.run(run())


def test_what_the_database_did_not_take_is_as_it_was_and_can_be_asked_again(tmp_path: Path):
    async def run() -> None:
        async with serving(tmp_path) as (works, store, _):
            live = await works.create(body(), "anonymous")
            await settled(works, live)
            store.fails = {"save"}
            assert (await refused(works.extend(live, 5, False))).code == "storage_failed"
            await recovered(works, store)
            answer = await settled(works, live)
            assert (answer.state, answer.usage.completion_tokens) == ("finished", 60)
            await works.extend(live, 5, False)
            assert (await settled(works, live)).usage.completion_tokens == 65

            live = await works.create(body(max_new_tokens=3000), "anonymous")
            await works.pause(live)
            store.fails = {"save"}
            assert (await refused(works.resume(live))).code == "storage_failed"
            await recovered(works, store)
            assert (await works.answer(live)).state == "paused"
            await works.resume(live)
            await until(lambda: live.texts[0].now.tokens > 100)
            store.fails = {"delete"}
            assert (await refused(works.delete(live))).code == "storage_failed"
            store.fails = set()
            assert await works.find(live.id, "anonymous") is live
            tokens = live.texts[0].now.tokens
            await until(lambda: live.texts[0].now.tokens > tokens + 20)
            await works.delete(live)
            assert store.count("anonymous") == 1

    asyncio.run(run())


def test_what_cannot_be_kept_is_not_written_though_it_was_being_prepared(tmp_path: Path):
    async def run() -> None:
        async with serving(tmp_path) as (works, store, _):
            first = await works.create(body(max_new_tokens=None), "anonymous")
            await until(lambda: first.texts[0].now.tokens > 20)
            prepare, go_on = works._desk._job, threading.Event()

            def slowly(*arguments: Any) -> Any:
                go_on.wait(PATIENCE)
                return prepare(*arguments)

            works._desk._job = slowly  # type: ignore[method-assign]
            second = await works.create(body(max_new_tokens=None), "anonymous")
            await asyncio.sleep(0.1)
            store.fails = {"save", "check"}
            await until(lambda: first.texts[0].job is None)
            go_on.set()
            await asyncio.sleep(1.0)
            assert second.texts[0].now.tokens == 0
            store.fails = set()
            await until(lambda: second.texts[0].now.tokens > 20)

    asyncio.run(run())


def test_a_database_that_became_anothers_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def run() -> None:
        async with serving(tmp_path) as (works, store, _):
            live = await works.create(body(max_new_tokens=None), "anonymous")
            await until(lambda: live.texts[0].now.tokens > 20)
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
            tokens = live.texts[0].now.tokens
            await until(lambda: live.texts[0].now.tokens > tokens)

    asyncio.run(run())


def test_nobody_waits_long_for_a_database_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def run() -> None:
        async with serving(tmp_path) as (works, store, _):
            monkeypatch.setattr("cpm_gen.works.scheduler._ANSWER", 0.3)
            live = await works.create(body(max_new_tokens=None), "anonymous")
            await until(lambda: live.texts[0].tail and works._desk._dirty)  # there is something to keep
            store.slow = dict.fromkeys(("save", "add", "page"), 3.0)
            began = time.monotonic()
            asked = [works.create(body(), "anonymous"), *(works.page("anonymous", None, 9) for _ in range(40))]
            assert {e.code for e in await asyncio.gather(*map(refused, asked))} == {"storage_failed"}
            assert time.monotonic() - began < 6.0, "one after the other they would wait 12 seconds"

    asyncio.run(run())


def test_what_a_slow_database_did_after_its_time_is_as_its_client_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async def run() -> None:
        async with serving(tmp_path) as (works, store, _):
            kept = await works.create(body(max_new_tokens=None), "anonymous")
            monkeypatch.setattr("cpm_gen.works.scheduler._ANSWER", 0.3)
            store.slow = {"add": 0.8}
            assert (await refused(works.create(body(), "anonymous"))).code == "storage_failed"
            await until(lambda: [s.work.id for s in Store.page(store, "anonymous", None, 9)] == [kept.id])
            store.slow = {"save": 0.8}
            assert (await refused(works.pause(kept))).code == "storage_failed"
            store.slow = {}
            await recovered(works, store)
            await until(lambda: kept.state == "running")
            store.slow = {"delete": 0.8}
            assert (await refused(works.delete(kept))).code == "storage_failed"
            await until(lambda: kept.deleted and not works._desk._writing)
            assert Store.get(store, kept.id) is None

    asyncio.run(run())


def test_a_work_waits_where_other_weights_stand_in_its_models_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async def run() -> None:
        async with serving(tmp_path) as (works, _, _):
            live = await works.create(body(max_new_tokens=None), "anonymous")
            await until(lambda: live.texts[0].now.tokens > 5)
        with monkeypatch.context() as context:
            context.setattr("cpm_gen.runtime.loaded_model.digest", lambda _: "0" * 16)
            async with serving(tmp_path) as (works, _, _):
                found = await works.find(live.id, "anonymous")
                assert found.state == "queued" and found.work.error["code"] == "other_model"
        async with serving(tmp_path) as (works, _, _):
            found = await works.find(live.id, "anonymous")
            tokens = found.texts[0].now.tokens
            await until(lambda: found.texts[0].now.tokens > tokens)

    asyncio.run(run())


def test_what_is_asked_as_the_service_ends_is_told_so(tmp_path: Path):
    async def run() -> None:
        async with serving(tmp_path) as (works, _, _):
            live = await works.create(body(), "anonymous")
            await works.close()
            assert (await refused(works.answer(live))).code == "shutting_down"

    asyncio.run(run())
