"""The service as a caller without HTTP uses it, with the embedded model."""

import asyncio
import contextlib
import math
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.llm import LLM
from cpm_gen.serving import scoring
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.generation_spec import GenerationSpec
from cpm_gen.serving.results import GenerationResult, TextUpdate, WindowUpdate
from cpm_gen.serving.service import Service
from tests.waiting import PATIENCE

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Run coroutines on one event loop."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="module")
def service(run: Run) -> Iterator[Service]:
    """A loaded service that all tests of this module share; every test leaves it idle."""
    service = Service(ServeOptions(max_text_tokens=2000, key_streams=1), ModelOptions(batch=4))
    run(service.load())
    yield service
    assert run(service.close(20))


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(ModelOptions()) as llm:
        yield llm


def spec(*prompts: str, tokens: int = 12, n: int = 1, seed: int | None = 1, **other: Any) -> GenerationSpec:
    text = TextOptions(max_new_tokens=tokens, n=n, seed=seed, style="plain")
    return GenerationSpec(prompts=prompts or ["从前"], sampling=SamplingParams(), text=text, **other)


async def idle(service: Service) -> None:
    async with asyncio.timeout(PATIENCE):
        while service.engine.busy:
            await asyncio.sleep(0.01)
    assert service.engine.reserved == 0


def refusal(run: Run, call: Coroutine[Any, Any, Any]) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        run(call)
    return caught.value


def test_a_generation_is_what_the_library_writes(run: Run, service: Service, llm: LLM):
    result = run(service.generate(spec("从前", "话说", n=2)))
    expected = llm.generate_many(["从前", "话说"], n=2, max_new_tokens=12, seed=1, style="plain")
    assert [t.text for t in result.texts] == [c.text for c in expected]
    assert [t.token_ids for t in result.texts] == [c.token_ids for c in expected]
    assert [t.index for t in result.texts] == [0, 1, 2, 3]
    assert {t.finish_reason for t in result.texts} == {"length"}
    assert result.seed == 1
    assert result.usage.prompt_tokens == len(llm.encode("从前")) + len(llm.encode("话说"))
    assert result.usage.completion_tokens == 48
    assert 0 <= result.timing.queued <= result.timing.first_token <= result.timing.total


def test_the_pieces_of_a_stream_join_to_the_whole(run: Run, service: Service):
    asked = spec("从前", "话说", tokens=40, hop=4)

    async def pieces() -> list[Any]:
        return [update async for update in service.stream(asked)]

    *updates, result = run(pieces())
    assert isinstance(result, GenerationResult)
    whole = run(service.generate(asked))
    assert [t.token_ids for t in result.texts] == [t.token_ids for t in whole.texts]
    for text in whole.texts:
        own = [u for u in updates if isinstance(u, TextUpdate) and u.index == text.index]
        assert "".join(u.text for u in own) == text.text
        assert sum((u.token_ids for u in own), ()) == text.token_ids
        assert [u.finish_reason for u in own if u.finish_reason] == [own[-1].finish_reason] == ["length"]


def test_a_stream_says_when_a_window_moves(run: Run, service: Service):
    limit = service.require().window.limit
    asked = spec(tokens=limit + 20)

    async def moves() -> list[WindowUpdate]:
        return [update async for update in service.stream(asked) if isinstance(update, WindowUpdate)]

    found = run(moves())
    assert found and [m.slides for m in found] == sorted({m.slides for m in found})
    assert all(m.start > 0 for m in found)


def test_a_stream_that_is_closed_early_leaves_the_batch(run: Run, service: Service):
    async def first() -> TextUpdate:
        async with contextlib.aclosing(service.stream(spec(tokens=2000))) as stream:
            update = await anext(stream)
        await idle(service)
        return update

    assert run(first()).token_ids


def test_a_generation_that_is_cancelled_leaves_the_batch(run: Run, service: Service):
    async def cancel() -> None:
        task = asyncio.create_task(service.generate(spec(tokens=2000)))
        async with asyncio.timeout(PATIENCE):
            while not service.engine.busy:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await idle(service)

    run(cancel())


def test_a_job_is_cancelled_while_it_runs_and_its_key_is_free_again(run: Run, service: Service):
    key = ApiKey("ann", b"", 1, 0)

    async def cancel() -> None:
        job = await service.start(spec(tokens=2000), key)
        assert await job.chunks()
        assert key.open == 1
        with pytest.raises(ServiceError) as caught:
            await service.generate(spec(), key)
        assert (caught.value.kind, caught.value.code) == ("rate_limited", "too_many_streams")
        service.cancel(job)
        service.cancel(job)
        assert key.open == 0
        await idle(service)

    run(cancel())


def test_a_client_s_timeout_ends_texts_as_they_are(run: Run, service: Service):
    result = run(service.generate(spec(tokens=2000, timeout=0.5)))
    assert result.texts[0].finish_reason == "timeout"
    assert 0 < len(result.texts[0].token_ids) < 2000


def test_a_score_is_the_library_s(run: Run, service: Service, llm: LLM):
    ids = llm.encode("春江潮水连海平")
    expected = llm.score(ids)
    for scored in (run(scoring.score(service, ids)), run(scoring.score(service, "春江潮水连海平"))):
        assert list(scored.token_ids) == ids
        assert scored.logprobs[0] is None
        assert scored.logprobs[1:] == pytest.approx(expected[1:], abs=1e-5)
        mean = -sum(expected[1:]) / (len(ids) - 1)
        assert scored.perplexity == pytest.approx(math.exp(mean), rel=1e-4)
    assert run(scoring.score(service, [])).perplexity is None


def test_a_text_becomes_tokens_and_text_again(run: Run, service: Service, llm: LLM):
    found = run(scoring.tokenize(service, "春江潮水"))
    assert list(found.token_ids) == llm.encode("春江潮水")
    assert len(found.pieces) == len(found.token_ids)
    assert run(scoring.detokenize(service, found.token_ids)) == "春江潮水"


@pytest.mark.parametrize(
    ("asked", "code", "field"),
    [
        (spec(tokens=2001), "too_many_tokens", "max_new_tokens"),
        (spec(n=9), "too_many_samples", "n"),
        (spec(*["从前"] * 17), "too_many_prompts", "prompt"),
        (spec("从前", "月" * 200_001), "prompt_too_long", "prompt.1"),
        (spec("从前", "月 " * 4000), "prompt_too_long", "prompt.1"),
        (spec(""), "invalid", "prompt"),
        (spec(hop=0), "invalid", "window.hop"),
        (spec(keep=10**6), "invalid", "window.keep"),
    ],
)
def test_a_refusal_has_a_code_and_a_field(run: Run, service: Service, asked: GenerationSpec, code: str, field: str):
    error = refusal(run, service.generate(asked))
    assert (error.kind, error.code, error.field) == ("invalid", code, field)
    assert service.engine.reserved == service.engine.busy == 0


def test_more_samples_than_the_queue_holds_are_refused(run: Run):
    async def refused() -> ServiceError:
        service = Service(ServeOptions(queue=1), ModelOptions(batch=1))
        with pytest.raises(ServiceError) as loading:
            await service.generate(spec())
        assert (loading.value.kind, loading.value.code) == ("unavailable", "loading")
        await service.load()
        try:
            with pytest.raises(ServiceError) as caught:
                await service.generate(spec(n=3))
        finally:
            assert await service.close(20)
        return caught.value

    error = run(refused())
    assert (error.kind, error.code) == ("rate_limited", "queue_full")
    assert error.retry_after == 1


def test_a_drain_refuses_new_requests_and_lets_running_ones_finish():
    async def drain() -> None:
        service = Service(ServeOptions(), ModelOptions())
        await service.load()
        running = asyncio.create_task(service.generate(spec(tokens=60)))
        while not service.engine.busy:
            await asyncio.sleep(0.01)
        draining = asyncio.create_task(service.drain(PATIENCE))
        await asyncio.sleep(0)
        for call in (
            service.generate(spec()),
            scoring.score(service, "从前"),
            scoring.tokenize(service, "从前"),
            service.check_ready(),
        ):
            with pytest.raises(ServiceError) as caught:
                await call
            assert (caught.value.kind, caught.value.code) == ("unavailable", "shutting_down")
        await draining
        assert len((await running).texts[0].token_ids) == 60
        assert await service.close(20)

    asyncio.run(drain())


def test_a_drain_ends_what_takes_longer_than_its_time():
    async def drain() -> None:
        service = Service(ServeOptions(), ModelOptions())
        await service.load()
        job = await service.start(spec(tokens=16_000))
        assert await job.chunks()
        await service.drain(0.1)
        with pytest.raises(ServiceError) as caught:
            while await job.chunks() is not None:
                pass
        assert caught.value.code == "shutting_down"
        service.cancel(job)
        assert await service.close(20)

    asyncio.run(drain())


def test_a_service_that_was_never_loaded_closes():
    async def close() -> bool:
        return await Service(ServeOptions(), ModelOptions()).close()

    assert asyncio.run(close())


WITHOUT_HTTP = """
import asyncio, sys
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.serving import scoring
from cpm_gen.serving.generation_spec import GenerationSpec
from cpm_gen.serving.results import TextUpdate
from cpm_gen.serving.service import Service

async def main():
    service = Service(ServeOptions(), ModelOptions())
    await service.load()
    text = TextOptions(max_new_tokens=8, seed=1)
    spec = GenerationSpec(prompts=["从前"], sampling=SamplingParams(), text=text)
    whole = (await service.generate(spec)).texts[0].text
    pieces = [update.text async for update in service.stream(spec) if isinstance(update, TextUpdate)]
    assert whole and "".join(pieces) == whole
    assert (await scoring.score(service, "春江潮水连海平")).perplexity > 1
    await service.drain(10)
    assert await service.close()

asyncio.run(main())
print(sorted({"fastapi", "starlette", "uvicorn", "h11", "sqlalchemy", "cpm_gen.server"} & sys.modules.keys()))
"""


def test_the_service_needs_no_http_library():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_HTTP], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
