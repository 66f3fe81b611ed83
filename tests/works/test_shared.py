"""Two managers of works on one PostgreSQL, as two services have them; they share this process's model."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from cpm_gen.config.options import ModelOptions
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.serving.api_keys import ApiKeys
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.service import Service
from cpm_gen.works.events import StateChanged, TextAdded, WorkFinished
from cpm_gen.works.manager import WorkManager
from cpm_gen.works.storage import leases
from cpm_gen.works.storage.store import Store
from cpm_gen.works.storage.tables import works as table
from tests.waiting import PATIENCE
from tests.works.manager import OWNER, create, refused, settled, tokens, undisturbed, until


@asynccontextmanager
async def sharing(url: str, **options: Any) -> AsyncGenerator[tuple[WorkManager, WorkManager, Service], None]:
    """Two managers; the second one takes no works before its ``open``."""
    Store(url).close()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(table.delete())
    service = Service(ServeOptions(**options), ModelOptions(threads=1), ApiKeys(streams=9))
    await service.load()
    pair = [WorkManager(service, Store(url, service.options.work_lease)) for _ in range(2)]
    await pair[0].open()
    pair[1]._works.model_loaded()
    try:
        yield pair[0], pair[1], service
    finally:
        for manager in pair:
            await manager.close()
        assert await service.close(20)
        engine.dispose()


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 2 * PATIENCE))


def counted(service: Service, name: str) -> float | None:
    return service.metrics.registry.get_sample_value(f"{name}_total")


def holders(url: str) -> list[str | None]:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            return list(connection.scalars(sa.select(table.c.holder).order_by(table.c.created)))
    finally:
        engine.dispose()


@pytest.mark.slow
def test_a_service_that_does_not_write_a_work_reads_follows_pauses_resumes_and_deletes_it(postgres: str):
    async def test() -> None:
        async with sharing(postgres) as (first, second, service):
            live = await create(first, max_new_tokens=600)
            await until(lambda: live.texts[0].persisted.tokens > 20)
            there = await second.find(live.id, OWNER)
            assert there.lease is None
            view = await second.view(there)
            assert (view.state, view.usage.completion_tokens > 20) == ("running", True)
            (entry,) = (await second.page(OWNER, None, 9)).works
            assert (entry.state, entry.tokens > 20) == ("running", True)

            await second.open()
            await second.pause(there)
            assert (await second.view(there)).state == "paused"
            await until(lambda: live.lease is None and not first.scheduler.writing)  # at its next commit
            assert counted(service, "cpm_work_leases_lost") == 1
            written = (await second.view(there)).usage.completion_tokens
            assert (await first.view(await first.find(live.id, OWNER))).state == "paused"

            events: list[Any] = []

            async def follow() -> None:
                events.extend([event async for event in first.follow(live, live.begin())])

            following = asyncio.create_task(follow())
            await second.resume(await second.find(live.id, OWNER))
            done = await settled(second, await second.find(live.id, OWNER))
            assert done.usage.completion_tokens == 600 > written
            assert tokens(done) == await undisturbed(service, max_new_tokens=600)
            await following
            got = [i for event in events if isinstance(event, TextAdded) for i in event.token_ids]
            assert [got] == tokens(done), "read from the database while the other service wrote"
            assert isinstance(events[-1], WorkFinished)
            assert {e.state for e in events if isinstance(e, StateChanged)} >= {"paused", "finished"}

            await first.extend(await first.find(live.id, OWNER), 5, False)
            assert (await settled(first, await first.find(live.id, OWNER))).usage.completion_tokens == 605
            await second.delete(await second.find(live.id, OWNER))
            await until(lambda: live.lease is None)  # it gives back what it does not write
            assert (await refused(first.find(live.id, OWNER))).code == "not_found"

    run(test)


def test_a_work_deleted_by_the_other_service_is_written_no_more(postgres: str):
    async def test() -> None:
        async with sharing(postgres) as (first, second, _):
            live = await create(first, max_new_tokens=None)
            await until(lambda: live.texts[0].persisted.tokens > 20)
            await second.delete(await second.find(live.id, OWNER))
            events = [event async for event in first.follow(live, live.begin())]
            assert [e.state for e in events if isinstance(e, StateChanged)][-1] == "deleted"
            await until(lambda: not first.scheduler.writing)
            assert (await second.page(OWNER, None, 9)).works == []

    run(test)


@pytest.mark.slow
def test_a_work_whose_lease_ran_out_is_taken_over_and_nothing_is_lost_or_written_twice(
    postgres: str, monkeypatch: pytest.MonkeyPatch
):
    """The database of the first holder does not answer, so it renews nothing; then it comes back with uncommitted tokens."""

    async def test() -> None:
        async with sharing(postgres, work_lease=2.0) as (first, second, service):
            live = await create(first, max_new_tokens=1200)
            await until(lambda: live.texts[0].persisted.tokens > 20)
            stopped = asyncio.Event()
            loop = asyncio.get_running_loop()
            store = first._store
            save = store.save

            def suspended(changes: Any) -> Any:
                loop.call_soon_threadsafe(stopped.set)
                asyncio.run_coroutine_threadsafe(resumed.wait(), loop).result(PATIENCE)
                return save(changes)

            resumed = asyncio.Event()
            monkeypatch.setattr(store, "save", suspended)
            await stopped.wait()
            await second.open()
            there = await second.find(live.id, OWNER)
            await until(
                lambda: there.lease is not None and there.texts[0].persisted.tokens > live.texts[0].persisted.tokens
            )
            assert counted(service, "cpm_works_taken_over") == 1
            assert live.texts[0].uncommitted, "the former holder generated tokens that it did not commit"
            resumed.set()
            await until(lambda: live.lease is None)
            done = await settled(second, there)
            assert tokens(done) == await undisturbed(service, max_new_tokens=1200)
            assert counted(service, "cpm_work_leases_lost") == 1

    run(test)


@pytest.mark.slow
@pytest.mark.parametrize("jump", [7200.0, -7200.0, -60.0])
def test_a_database_whose_clock_jumps_loses_no_work(postgres: str, monkeypatch: pytest.MonkeyPatch, jump: float):
    async def test() -> None:
        async with sharing(postgres, work_lease=2.0) as (first, second, service):
            lives = [await create(first, max_new_tokens=900, seed=seed) for seed in range(2)]
            await second.open()
            await until(lambda: all(live.texts[0].persisted.tokens > 20 for live in lives))
            now = leases.now
            monkeypatch.setattr(leases, "now", lambda: now() + jump)
            for seed, live in enumerate(lives):
                done = await settled(second, await second.find(live.id, OWNER))
                assert tokens(done) == await undisturbed(service, max_new_tokens=900, seed=seed)

    run(test)


@pytest.mark.slow
def test_a_process_whose_clock_jumps_keeps_its_works(postgres: str, monkeypatch: pytest.MonkeyPatch):
    async def test() -> None:
        async with sharing(postgres, work_lease=2.0) as (first, second, service):
            await second.open()
            live = await create(first, max_new_tokens=1200)
            await until(lambda: live.texts[0].persisted.tokens > 20)
            for jump in (86_400.0, -86_400.0):
                monkeypatch.setattr("time.time", lambda jump=jump: 1_700_000_000.0 + jump)
                written = live.texts[0].persisted.tokens
                await until(lambda written=written: live.texts[0].persisted.tokens > written + 50)
            assert tokens(await settled(first, live)) == await undisturbed(service, max_new_tokens=1200)
            assert counted(service, "cpm_work_leases_lost") == counted(service, "cpm_works_taken_over") == 0

    run(test)


def test_a_service_that_ends_gives_its_works_back_at_once(postgres: str):
    async def test() -> None:
        async with sharing(postgres, work_lease=300.0) as (first, second, service):
            live = await create(first, max_new_tokens=600)
            await until(lambda: live.texts[0].persisted.tokens > 20)
            assert None not in holders(postgres)
            await first.close()
            assert holders(postgres) == [None]
            await second.open()
            done = await settled(second, await second.find(live.id, OWNER))
            assert tokens(done) == await undisturbed(service, max_new_tokens=600)
            assert counted(service, "cpm_works_taken_over") == 0

    run(test)


def test_works_that_have_no_place_are_written_by_whichever_service_has_one(postgres: str):
    async def test() -> None:
        async with sharing(postgres, work_places=1) as (first, second, _):
            lives = [await create(first, max_new_tokens=None, seed=seed) for seed in range(2)]
            await until(lambda: lives[0].texts[0].persisted.tokens > 20)
            assert (await first.view(lives[1])).state == "queued"
            await second.open()
            there = await second.find(lives[1].id, OWNER)
            await until(lambda: there.lease is not None and there.texts[0].persisted.tokens > 20)
            assert len(set(holders(postgres))) == 2
            assert (await first.view(await first.find(there.id, OWNER))).state == "running"

    run(test)


@pytest.mark.slow
def test_works_take_turns_where_all_places_are_taken(postgres: str):
    async def test() -> None:
        async with sharing(postgres, work_places=1, work_turn=0.2) as (first, _, service):
            lives = [await create(first, max_new_tokens=400, n=n, seed=n) for n in (1, 2, 1)]
            began: list[str] = []
            while not all(live.state == "finished" for live in lives):
                began += [live.id for live in lives if live.state == "running" and began[-1:] != [live.id]]
                await asyncio.sleep(0.01)
            assert len(began) > len(lives), "each was interrupted for another"
            for live, n in zip(lives, (1, 2, 1), strict=True):
                found = await first.view(await first.find(live.id, OWNER), token_ids=True)
                assert tokens(found) == await undisturbed(service, max_new_tokens=400, n=n, seed=n)

    run(test)


@pytest.mark.slow
def test_requests_at_two_services_at_once_leave_one_state(postgres: str):
    async def test() -> None:
        async with sharing(postgres) as (first, second, service):
            await second.open()
            live = await create(first, max_new_tokens=1500)
            there = await second.find(live.id, OWNER)
            for _ in range(5):
                asked = [first.pause(live), second.pause(there), second.resume(there), first.resume(live)]
                for answer in await asyncio.gather(*asked, return_exceptions=True):
                    assert answer is None or isinstance(answer, ServiceError), answer
                for manager in (first, second):
                    found = await manager.find(live.id, OWNER)
                    assert found.work.state in ("queued", "paused", "finished")
            await second.resume(await second.find(live.id, OWNER))
            done = await settled(first, await first.find(live.id, OWNER))
            assert tokens(done) == await undisturbed(service, max_new_tokens=1500)

    run(test)
