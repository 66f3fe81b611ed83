"""The engine's client and thread with a model that does not answer, in one process."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.engine.model_runner import SCORINGS
from cpm_gen.engine.sequence import Request
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.runtime.text_stream import TextStream
from cpm_gen.serving.engine_client import EngineClient
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.job import Job
from cpm_gen.serving.metrics import Metrics

STUCK = 0.4  # seconds


def load_model(rank_died: Callable[[str], None]) -> TextEngine:
    return TextEngine.load(ModelOptions(), rank_died)


@asynccontextmanager
async def running(
    *,
    restart: bool = False,
    stuck_after: float = STUCK,
    load: Callable[[Callable[[str], None]], TextEngine] = load_model,
) -> AsyncGenerator[EngineClient, None]:
    client = EngineClient(load, Metrics(), queue=8, batch=8, stuck_after=stuck_after, restart=restart)
    client.start()
    watching = asyncio.create_task(client.watch())
    await reached(client, "ready")
    yield client
    watching.cancel()
    await client.end(20)


async def reached(client: EngineClient, state: str) -> None:
    async with asyncio.timeout(60):
        while client.state != state:
            await asyncio.sleep(0.02)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Scoring waits for it in its first pass."""
    go_on, scoring = threading.Event(), TextEngine.scoring

    def slowly(llm: TextEngine, ids: list[int], **others: Any) -> Iterator[list[float]]:
        go_on.wait(60)
        yield from scoring(llm, ids, **others)

    monkeypatch.setattr(TextEngine, "scoring", slowly)
    yield go_on
    go_on.set()


def test_a_scoring_is_told_that_the_engine_is_stuck_also_one_that_had_not_begun(held: threading.Event):
    async def run() -> None:
        async with running() as client:
            first, second = (asyncio.create_task(client.score([5, 6, 7])) for _ in range(2))
            await reached(client, "stuck")
            for scoring in (first, second):
                with pytest.raises(ServiceError) as caught:
                    await scoring
                assert caught.value.code == "engine_stuck"
            assert client.busy == 0
            held.set()
            await reached(client, "ready")
            assert len(await client.score([5, 6, 7])) == 2

    asyncio.run(run())


def test_a_scoring_that_waited_for_a_model_that_is_gone_does_not_meet_the_next_one(
    held: threading.Event, monkeypatch: pytest.MonkeyPatch
):
    watchers: list[Callable[[str], None]] = []

    def load(rank_died: Callable[[str], None]) -> TextEngine:
        watchers.append(rank_died)
        return load_model(rank_died)

    async def run() -> None:
        async with running(restart=True, load=load) as client:
            first = asyncio.create_task(client.score([5, 6, 7]))
            await asyncio.sleep(0.1)
            watchers[0]("rank 1 died")
            second = asyncio.create_task(client.score([5, 6, 7]))
            await asyncio.sleep(0.1)
            held.set()
            for scoring in (first, second):
                with pytest.raises(Exception, match="engine failed"):
                    await scoring
            await reached(client, "ready")
            assert len(await client.score([5, 6, 7])) == 2
            assert client.state == "ready" and client.busy == 0

    asyncio.run(run())


def test_scorings_take_turns_and_more_wait_for_one_of_them_to_end(monkeypatch: pytest.MonkeyPatch):
    go_on, order = threading.Event(), []

    def three(llm: TextEngine, ids: list[int], **others: Any) -> Iterator[list[float]]:
        for _ in range(3):
            go_on.wait(60)
            order.append(ids[0])
            yield [-1.0]

    monkeypatch.setattr(TextEngine, "scoring", three)
    ids = list(range(SCORINGS + 2))

    async def run() -> None:
        async with running(stuck_after=60) as client:
            scorings = [asyncio.create_task(client.score([i])) for i in ids]
            while client.busy < len(ids):
                await asyncio.sleep(0.01)
            go_on.set()
            assert await asyncio.gather(*scorings) == [[-1.0] * 3] * len(ids)

    asyncio.run(run())
    assert order == [*ids[:SCORINGS]] * 3 + ids[SCORINGS:] * 3


def test_a_command_that_takes_long_is_noticed_as_a_step_is(monkeypatch: pytest.MonkeyPatch):
    go_on, begin = threading.Event(), TextEngine.begin

    def slowly(llm: TextEngine, requests: Sequence[Request], *others: Any) -> list[TextStream]:
        if requests[0].prompt == (5, 6, 7):  # not the one that warms up
            go_on.wait(60)
        return begin(llm, requests, *others)

    monkeypatch.setattr(TextEngine, "begin", slowly)

    async def run() -> None:
        async with running() as client:
            text = TextOptions(max_new_tokens=2)
            job = Job("gen-1", client.require().requests([[5, 6, 7]], SamplingParams(), text), text)
            client.reserve(1)
            client.submit(job)
            await reached(client, "stuck")
            with pytest.raises(ServiceError) as caught:
                await job.chunks()
            assert caught.value.code == "engine_stuck"
            go_on.set()
            await reached(client, "ready")
            await asyncio.sleep(3 * STUCK)  # idle is not stuck
            assert client.state == "ready"

    asyncio.run(run())
