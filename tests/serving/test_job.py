"""A job's mailbox, without an engine."""

import asyncio

import pytest

from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.engine.sequence import Request
from cpm_gen.engine.window import Window
from cpm_gen.outputs import Chunk
from cpm_gen.serving.errors import ServiceError, unavailable
from cpm_gen.serving.job import Job
from cpm_gen.serving.results import check_started


def job(**other) -> Job:
    request = Request((1, 2, 3), Window(8, 4), None, SamplingParams(), 1)
    return Job("gen-1", [request] * 4, TextOptions(n=2), **other)


def chunk(text: str, place: int = 0, slides: int = 0) -> Chunk:
    return Chunk(text, (ord(text),), 0, 0, place, slides, slides)


def test_who_is_late_gets_a_texts_chunks_as_one_up_to_a_move_of_its_window():
    async def run():
        it = job()
        it.deliver([chunk("a"), chunk("x", 1), chunk("b")])
        it.deliver([chunk("c", slides=1), chunk("y", 1), chunk("d", slides=1), chunk("e", slides=2)])
        got = await it.chunks()
        assert [(c.place, c.text, c.window_start) for c in got] == [
            (0, "ab", 0),
            (1, "xy", 0),
            (0, "cd", 1),
            (0, "e", 2),
        ]
        assert [c.token_ids for c in got] == [tuple(map(ord, c.text)) for c in got]

    asyncio.run(run())


def test_chunks_come_in_order_and_all_at_once_to_who_is_late():
    async def run():
        it = job()
        it.deliver([chunk("a")])
        it.deliver([chunk("b"), chunk("c")])
        assert [c.text for c in await it.chunks()] == ["abc"]
        waiting = asyncio.create_task(it.chunks())
        await asyncio.sleep(0)
        it.deliver([chunk("d")])
        assert [c.text for c in await waiting] == ["d"]
        it.deliver([chunk("e")])
        it.finish()
        assert [c.text for c in await it.chunks()] == ["e"]
        assert await it.chunks() is None
        assert await it.chunks() is None

    asyncio.run(run())


def test_silence_is_an_empty_list():
    async def run():
        it = job()
        assert await it.chunks(patience=0.01) == []
        it.finish()
        assert await it.chunks(patience=0.01) is None

    asyncio.run(run())


def test_a_failure_comes_after_what_came_before_it_and_the_first_one_counts():
    async def run():
        it = job()
        it.deliver([chunk("a")])
        it.finish(unavailable("first", "x"))
        it.finish(unavailable("second", "x"))
        it.finish()
        assert [c.text for c in await it.chunks()] == ["a"]
        with pytest.raises(ServiceError) as failure:
            await it.chunks()
        assert failure.value.code == "first"

    asyncio.run(run())


def test_prompts_are_counted_once():
    assert job().prompt_tokens == 6
    assert job().samples == 4


def test_our_impatience_is_a_refusal_the_clients_is_an_answer():
    ours, clients = job(), job(own_deadline=True)
    ours.timed_out = clients.timed_out = True
    check_started(clients, [])
    with pytest.raises(ServiceError) as refused:
        check_started(ours, [])
    assert (refused.value.kind, refused.value.code) == ("unavailable", "timeout")
