"""A text goes on where an earlier run left it as if it had not been interrupted: the ground that works stand on."""

import dataclasses
from collections import deque

import pytest

import cpm_gen
from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.engine.sequence import Request, Sequence
from cpm_gen.engine.window import Window
from cpm_gen.errors import InputError
from cpm_gen.outputs import Chunk

GREEDY = SamplingParams(temperature=0, repetition_penalty=1.3)
SAMPLED = SamplingParams(temperature=0.9, top_k=50, presence_penalty=0.5, no_repeat_ngram=5)
DRY = SamplingParams(temperature=0.9, top_k=50, dry_multiplier=0.8)
LENGTH = 150


@pytest.fixture(scope="module")
def llm():
    with cpm_gen.load(window_limit=40) as llm:
        yield llm


def written(llm: cpm_gen.LLM, request: Request, text: TextOptions, most: int | None = None) -> list[Chunk]:
    """The chunks of a run, ended after ``most`` tokens as a killed process ends it."""
    ready: deque[Chunk] = deque()
    chunks: list[Chunk] = []
    writers = llm.engine.begin([request], text, ready)
    while not writers[0].done and (most is None or len(chunks) < most):
        llm.engine.step()
        chunks += ready
        ready.clear()
    llm.engine.end(writers)
    return chunks


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, DRY], ids=["greedy", "sampled", "dry"])
@pytest.mark.parametrize(
    "window",
    [
        Window(40, 13),
        Window(40, 10, "sentence"),
        Window(40, 9, keep=5),
        pytest.param(Window(40, 1), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_resumed_text_equals_an_undisturbed_one(llm, sampling, window):
    text = TextOptions(style="lyric", max_new_tokens=LENGTH, seed=5)
    [request] = llm.engine.requests([llm.encode("春江潮水连海平，", "lyric")], sampling, text, window=window)
    whole = written(llm, request, text)
    ids = [i for chunk in whole for i in chunk.token_ids]
    assert len(ids) == LENGTH
    assert whole[-1].slides > 2
    for cut in (1, 30, 47, 101, LENGTH - 1):
        resumed = written(llm, dataclasses.replace(request, written=tuple(ids[:cut])), text)
        assert [i for chunk in resumed for i in chunk.token_ids] == ids[cut:]
        assert [(c.text, c.window_start, c.slides, c.text_start) for c in resumed] == [
            (c.text, c.window_start, c.slides, c.text_start) for c in whole[cut:]
        ]
        assert resumed[-1].completion is not None and whole[-1].completion is not None
        assert resumed[-1].completion.text == whole[-1].completion.text
        assert resumed[-1].completion.token_ids == whole[-1].completion.token_ids


def test_a_stop_string_that_began_before_the_cut_ends_the_text_after_it(llm):
    text = TextOptions(style="lyric", max_new_tokens=60, seed=5)
    prompt = llm.encode("春江潮水连海平，", "lyric")
    [request] = llm.engine.requests([prompt], SAMPLED, text)
    plain = written(llm, request, text)
    stop = "".join(chunk.text for chunk in plain[20:24])
    assert len(stop) > 2
    stopping = dataclasses.replace(text, stop=(stop,))
    ids = tuple(i for chunk in plain for i in chunk.token_ids)
    before = written(llm, request, stopping, most=22)
    after = written(llm, dataclasses.replace(request, written=ids[:22]), stopping)
    assert after[-1].completion is not None
    assert after[-1].completion.finish_reason == "stop"
    assert "".join(chunk.text for chunk in before + after) == "".join(chunk.text for chunk in plain[:20])


def test_what_is_complete_cannot_be_gone_on_with():
    def request(**other: object) -> Request:
        return Request((1, 2), Window(8, 4), None, SamplingParams(), 1, **other)  # type: ignore[arg-type]

    with pytest.raises(InputError, match="complete"):
        request(max_new_tokens=3, written=(4, 5, 6))
    assert Sequence(request(max_new_tokens=3, written=(4, 5))).step == 2


def continued(llm: cpm_gen.LLM, request: Request, text: TextOptions, most: int) -> list[Chunk]:
    """The chunks that go on after a text that is complete, up to ``most`` tokens in all."""
    chunks = written(llm, request, text)
    ids = tuple(i for chunk in chunks for i in chunk.token_ids)
    shown = sum(len(chunk.text) for chunk in chunks)
    longer = dataclasses.replace(request, written=ids, max_new_tokens=most)
    ready: deque[Chunk] = deque()
    writers = llm.engine.begin([longer], text, ready, shown)
    while not writers[0].done:
        llm.engine.step()
    llm.engine.end(writers)
    return [*chunks, *ready]


def joined(chunks: list[Chunk]) -> tuple[str, list[int]]:
    return "".join(c.text for c in chunks), [i for c in chunks for i in c.token_ids]


def test_a_text_that_reached_its_length_goes_on_as_if_it_had_been_longer(llm):
    text = TextOptions(style="lyric", max_new_tokens=60, seed=5)
    prompt = llm.encode("春江潮水连海平，", "lyric")
    [request] = llm.engine.requests([prompt], SAMPLED, text)
    whole = written(llm, request, text)
    for cut in range(20, 32):
        # its last character might have begun a stop string, and was let out when the text ended
        stop = whole[cut - 1].text[-1:] + "\0"
        stopping = dataclasses.replace(text, stop=(stop,))
        short = dataclasses.replace(request, max_new_tokens=cut)
        assert joined(continued(llm, short, stopping, 60)) == joined(whole)


def test_a_text_goes_on_past_the_stop_string_that_ended_it(llm):
    text = TextOptions(style="lyric", max_new_tokens=60, seed=5)
    prompt = llm.encode("春江潮水连海平，", "lyric")
    [request] = llm.engine.requests([prompt], SAMPLED, text)
    whole = written(llm, request, text)
    stop = "".join(chunk.text for chunk in whole[20:24])
    ended = written(llm, request, dataclasses.replace(text, stop=(stop,)))
    assert ended[-1].completion is not None and ended[-1].completion.finish_reason == "stop"
    assert joined(continued(llm, request, dataclasses.replace(text, stop=(stop,)), 60)) == joined(whole)


def test_a_text_goes_on_past_the_end_of_document_that_ended_it(llm):
    text = TextOptions(style="lyric", max_new_tokens=60, seed=5)
    prompt = llm.encode("春江潮水连海平，", "lyric")
    [request] = llm.engine.requests([prompt], SAMPLED, text)
    whole = written(llm, request, text)
    eod = llm.tokenizer.eod
    first = joined(whole)[1].index(eod)
    stopping = dataclasses.replace(request, stop_ids=frozenset({eod}))
    ended = written(llm, stopping, text)
    assert ended[-1].completion is not None and ended[-1].completion.finish_reason == "stop"
    ids = joined(whole)[1]
    second = ids.index(eod, first + 1) if eod in ids[first + 1 :] else len(ids) - 1
    shown, goes_on = joined(continued(llm, stopping, text, 60))
    assert goes_on == ids[: second + 1]
    assert joined(whole)[0].startswith(shown)
    assert len(goes_on) > len(joined(ended)[1])


def test_slides_before_the_cut_count():
    request = Request((1, 2, 3), Window(6, 3), None, SamplingParams(), 1, written=tuple(range(10, 20)))
    grown = Sequence(dataclasses.replace(request, written=()))
    for token in request.written:
        grown.append(token)
    resumed = Sequence(request)
    assert (resumed.tokens, resumed.start, resumed.next_start, resumed.slides) == (
        grown.tokens,
        grown.start,
        grown.next_start,
        grown.slides,
    )
    assert grown.slides > 1


def test_recomputed_requests_run_among_cached_ones(llm):
    text = TextOptions(max_new_tokens=90, seed=3)
    prompt = llm.encode("从前")
    [cached] = llm.engine.requests([prompt], SAMPLED, text)
    ready: deque[Chunk] = deque()
    writers = llm.engine.begin([cached, dataclasses.replace(cached, recompute=True)], text, ready)
    while not all(w.done for w in writers):
        llm.engine.step()
        assert llm.engine.slots is not None
        assert llm.engine.slots[0] <= 2  # of the cached one: its window and its next
    llm.engine.end(writers)
    assert writers[0].generation.tokens == writers[1].generation.tokens
    assert writers[0].generation.slides > 1


def test_what_its_reader_keeps_is_not_kept_twice(llm):
    [request] = llm.engine.requests(
        [llm.encode("话说天下大势，")], GREEDY, TextOptions(max_new_tokens=LENGTH, stop_at_eod=False)
    )
    whole = written(llm, request, TextOptions())
    ready: deque[Chunk] = deque()
    [writer] = llm.engine.begin([request], TextOptions(), ready, shown=0)
    while not writer.done:
        llm.engine.step()
        assert len(writer.token_ends) <= llm.window.limit
    llm.engine.end([writer])
    assert [c.text_start for c in ready] == [c.text_start for c in whole]
    assert "".join(c.text for c in ready) == whole[-1].completion.text
    assert writer.pieces is None
    assert (ready[-1].finish_reason, ready[-1].completion) == ("length", None)
