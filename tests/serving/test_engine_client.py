"""The engine's loop and thread with a model that does not answer, in one process."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import pytest

from cpm_gen.config.options import ModelOptions
from cpm_gen.engine.model_runner import SCORINGS
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.serving.engine_client import EngineLoop
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.metrics import Metrics

STUCK = 0.4  # seconds


@asynccontextmanager
async def running(*, restart: bool = False, stuck_after: float = STUCK) -> AsyncGenerator[EngineLoop, None]:
    loop = EngineLoop(
        lambda died: TextEngine.load(ModelOptions(), died),
        Metrics(),
        queue=8,
        batch=8,
        stuck_after=stuck_after,
        restart=restart,
    )
    loop.start()
    watching = asyncio.create_task(loop.watch())
    await reached(loop, "ready")
    yield loop
    watching.cancel()
    await loop.end(20)


async def reached(loop: EngineLoop, state: str) -> None:
    async with asyncio.timeout(60):
        while loop.state != state:
            await asyncio.sleep(0.02)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Scoring waits for it in its first pass."""
    go_on, scoring = threading.Event(), TextEngine.scoring

    def slowly(llm: TextEngine, ids: list[int]) -> Iterator[list[float]]:
        go_on.wait(60)
        yield from scoring(llm, ids)

    monkeypatch.setattr(TextEngine, "scoring", slowly)
    yield go_on
    go_on.set()


def test_a_scoring_is_told_that_the_engine_is_stuck_also_one_that_had_not_begun(held: threading.Event):
    async def run() -> None:
        async with running() as loop:
            first, second = (asyncio.create_task(loop.score([5, 6, 7])) for _ in range(2))
            await reached(loop, "stuck")
            for scoring in (first, second):
                with pytest.raises(ServiceError) as caught:
                    await scoring
                assert caught.value.code == "engine_stuck"
            assert loop.busy == 0
            held.set()
            await reached(loop, "ready")
            assert len(await loop.score([5, 6, 7])) == 2

    asyncio.run(run())


def test_a_scoring_that_waited_for_a_model_that_is_gone_does_not_meet_the_next_one(
    held: threading.Event, monkeypatch: pytest.MonkeyPatch
):
    async def run() -> None:
        async with running(restart=True) as loop:
            first = asyncio.create_task(loop.score([5, 6, 7]))
            await asyncio.sleep(0.1)
            loop._thread._rank_died(1, "rank 1 died")
            second = asyncio.create_task(loop.score([5, 6, 7]))
            await asyncio.sleep(0.1)
            held.set()
            for scoring in (first, second):
                with pytest.raises(Exception, match="engine failed"):
                    await scoring
            await reached(loop, "ready")
            assert len(await loop.score([5, 6, 7])) == 2
            assert loop.state == "ready" and loop.busy == 0

    asyncio.run(run())


def test_scorings_take_turns_and_more_wait_for_one_of_them_to_end(monkeypatch: pytest.MonkeyPatch):
    go_on, order = threading.Event(), []

    def three(llm: TextEngine, ids: list[int]) -> Iterator[list[float]]:
        for _ in range(3):
            go_on.wait(60)
            order.append(ids[0])
            yield [-1.0]

    monkeypatch.setattr(TextEngine, "scoring", three)
    ids = list(range(SCORINGS + 2))

    async def run() -> None:
        async with running(stuck_after=60) as loop:
            scorings = [asyncio.create_task(loop.score([i])) for i in ids]
            while loop.busy < len(ids):
                await asyncio.sleep(0.01)
            go_on.set()
            assert await asyncio.gather(*scorings) == [[-1.0] * 3] * len(ids)

    asyncio.run(run())
    assert order == [*ids[:SCORINGS]] * 3 + ids[SCORINGS:] * 3


def test_a_command_that_takes_long_is_noticed_as_a_step_is(monkeypatch: pytest.MonkeyPatch):
    async def run() -> None:
        async with running() as loop:
            go_on = threading.Event()
            loop._thread._commands.put(lambda: go_on.wait(60))  # type: ignore[arg-type, return-value]
            await reached(loop, "stuck")
            go_on.set()
            await reached(loop, "ready")
            await asyncio.sleep(3 * STUCK)  # idle is not stuck
            assert loop.state == "ready"

    asyncio.run(run())
