"""Several services on one PostgreSQL: killed, suspended, replaced one by one. Compared with undisturbed runs."""

import os
import signal
from collections.abc import Callable, Iterator

import httpx
import pytest
import sqlalchemy as sa

from cpm_gen.works.storage.store import Store
from cpm_gen.works.storage.tables import works
from tests.service_process import Server, until
from tests.works_client import create, follow, grown, joined, look, settled, undisturbed, written

pytestmark = pytest.mark.slow

SAMPLED = {"temperature": 0.9, "top_k": 40, "presence_penalty": 0.4, "n": 2, "max_new_tokens": 900}
LEASE = 3.0  # seconds


@pytest.fixture
def serve(start: Callable[..., Server], postgres: str) -> Callable[..., Server]:
    Store(postgres).close()
    engine = sa.create_engine(postgres)
    with engine.begin() as connection:
        connection.execute(works.delete())
    engine.dispose()
    return lambda *flags: start("--database", postgres, "--threads", "1", "--work-lease", str(LEASE), *flags)


def begin(client: httpx.Client, count: int) -> dict[int, str]:
    return {seed: create(client, **SAMPLED, seed=seed)["id"] for seed in range(count)}


def finished_as_undisturbed(client: httpx.Client, ids: dict[int, str]) -> None:
    for seed, id in ids.items():
        done = settled(client, id)
        assert done["state"] == "finished", done["error"]
        assert written(done) == undisturbed(client, **SAMPLED, seed=seed)


def holders(url: str) -> set[str | None]:
    engine = sa.create_engine(url)
    try:
        with engine.connect() as connection:
            return set(connection.scalars(sa.select(works.c.holder).where(works.c.state == "queued")))
    finally:
        engine.dispose()


def test_after_kill_9_another_service_finishes_the_works_with_the_same_tokens(serve, postgres: str):
    first, second = serve(), serve()
    with first.client() as there, second.client() as client:
        ids = begin(there, 2)
        for id in ids.values():
            grown(there, id, 40)
        assert first.metric("cpm_works_held") == 2
        first.signal(signal.SIGKILL)
        first.wait()
        finished_as_undisturbed(client, ids)
    assert second.metric("cpm_works_taken_over_total") == 2
    assert "Traceback" not in second.log


def test_a_service_suspended_past_its_leases_writes_nothing_more_when_it_goes_on(serve, postgres: str):
    first, second = serve(), serve()
    with first.client() as there, second.client() as client:
        ids = begin(there, 2)
        for id in ids.values():
            grown(there, id, 40)
        first.signal(signal.SIGSTOP)
        try:
            before = {id: look(client, id)["usage"]["completion_tokens"] for id in ids.values()}
            for id in ids.values():
                grown(client, id, before[id] + 20)  # the other one has taken them over
            assert second.metric("cpm_works_taken_over_total") == 2
            (holder,) = holders(postgres)
        finally:
            first.signal(signal.SIGCONT)
        until(lambda: first.metric("cpm_work_leases_lost_total") == 2)
        assert holders(postgres) <= {holder}, "it did not take them back"
        finished_as_undisturbed(client, ids)
        assert {id: look(there, id)["choices"] for id in ids.values()} == {
            id: look(client, id)["choices"] for id in ids.values()
        }
    assert "Traceback" not in first.log + second.log


def events_until(events: Iterator[tuple[str, str, dict]], count: int) -> list[tuple[str, str, dict]]:
    got = []
    for event in events:
        got.append(event)
        if sum(name == "token" for _, name, _ in got) >= count:
            break
    return got


def test_works_continue_through_a_rolling_update_and_so_do_their_followers(serve):
    old = serve("--drain-timeout", "5")
    with old.client() as client:
        ids = begin(client, 2)
        followed = events_until(follow(client, ids[0]), 20)
        new = serve()
        old.signal(signal.SIGTERM)
        assert old.wait() == 0, old.log
    with new.client() as client:
        followed += list(follow(client, ids[0], followed[-1][0]))
        finished_as_undisturbed(client, ids)
        texts = written(look(client, ids[0]))
        assert [joined(followed, index) for index in range(2)] == [(text, ids) for text, ids in texts]
    assert new.metric("cpm_works_taken_over_total") == 0, "they were given back, not left"
    assert "Traceback" not in old.log + new.log


def test_a_follower_at_another_service_sees_every_token_while_the_holder_changes(serve):
    first, second, third = serve(), serve(), serve()
    with first.client() as there, third.client() as client:
        id = create(there, **SAMPLED, seed=5)["id"]
        events = follow(client, id)  # read from the database: another service writes it
        followed = events_until(events, 5)
        os.kill(first.process.pid, signal.SIGKILL)
        first.wait()
        followed += list(events)
        texts = written(look(client, id))
        assert [joined(followed, index) for index in range(2)] == [(text, ids) for text, ids in texts]
        assert texts == undisturbed(client, **SAMPLED, seed=5)
    assert second.metric("cpm_works_taken_over_total") + third.metric("cpm_works_taken_over_total") == 1
