"""Windows with inserted tokens: the cached decoder equals a recomputation from lists, alone, in a batch and resumed."""

import dataclasses
import functools
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.engine import Engine
from cpm_gen.engine.insertions import Inserted, Note
from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.engine.scheduler import CachedScheduler
from cpm_gen.engine.sequence import Request, Sequence
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError
from cpm_gen.networks.interface import Segment
from cpm_gen.sampling.constraints import Indices
from tests.random_networks import SMALL, load_runner, random_checkpoint

SAMPLED = SamplingParams(temperature=0.9, top_k=20, repetition_penalty=1.2, frequency_penalty=0.1)
ENDS = frozenset(range(0, 120, 9))
ROOM = 9
SIZE = dataclasses.replace(SMALL, positions=36)
LIMIT = SIZE.positions - 1 - ROOM


@dataclasses.dataclass(frozen=True)
class Varying:
    """Inserts other tokens, in other places, for every history."""

    salt: int = 0
    room: int = ROOM

    def choose(self, tokens: Seq[int], length: int, state: int | None) -> Inserted:
        mixed = (
            sum((at + 1) * token for at, token in enumerate(tokens[max(0, length - 5) : length]))
            + self.salt
            + (state or 0)
        )
        before = mixed % 6
        return Inserted(
            tuple((mixed + n) % 120 for n in range(before)),
            tuple(
                Note(max(0, length - mixed % size), tuple((mixed * size + n) % 120 for n in range(note)))
                for size, note in ((11, mixed % 3), (5, mixed % 2))
                if note
            )[:: 1 if mixed % 11 >= mixed % 5 else -1],
            (str(mixed),),
        )


@dataclasses.dataclass(frozen=True)
class Steering:
    """Allows other tokens after every history, and all of them now and then."""

    reason: Literal["story"] = "story"

    def begin(self) -> int:
        return 1

    def forbidden(self, state: int) -> frozenset[int]:
        return frozenset({state % 5, state % 120})

    def advance(self, state: int, token: int) -> int:
        return (state * 31 + token) % 1009

    def allowed(self, state: int) -> Indices | None:
        return None if state % 3 == 0 else np.arange(state % 7, 120, 2)

    def bias(self, state: int, allowed: Indices) -> None:
        return None

    def finished(self, state: int) -> bool:
        return False


def states(request: Request, tokens: list[int]) -> int | None:
    """The constraint's state after a history."""
    constraint = request.constraint
    return (
        None
        if constraint is None
        else functools.reduce(constraint.advance, tokens[len(request.prompt) :], constraint.begin())
    )


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelRunner]:
    folder = random_checkpoint(tmp_path_factory.mktemp("network"), SIZE)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_runner(folder, slots=8)
    torch.set_num_threads(threads)


def contexts(request: Request, tokens: list[int]) -> Iterator[list[int]]:
    """What the network sees before each token after the prompt, from lists: the head, and a tail that a note stands in."""
    window, insertions, prompt = request.window, request.insertions, len(request.prompt)
    assert insertions is not None
    start = 0
    while prompt - start > window.limit:
        start = moved(window, tokens[:prompt], start, request.ends)
    shown = insertions.choose(tokens[:prompt], prompt, states(request, tokens[:prompt]))
    for length in range(prompt, len(tokens)):
        if length - start > window.limit:
            decided = max(prompt, start + window.limit - window.hop // 4)
            assert decided < length
            shown = insertions.choose(tokens[:decided], decided, states(request, tokens[:decided]))
            start = moved(window, tokens[:length], start, request.ends)
        tail = tokens[start:length]
        for at, note in reversed(shown.notes):
            place = max(0, at - start)
            tail[place:place] = note
        yield [*shown.before, *tail]


def moved(window: Window, tokens: list[int], start: int, ends: frozenset[int] | None) -> int:
    reach = range(start + window.hop, min(len(tokens), start + window.limit + 1))
    return next((at for at in reach if ends is None or tokens[at - 1] in ends), start + window.hop)


def run(runner: ModelRunner, requests: list[Request], spare: int = 2, budget: int = 64) -> list[list[int]]:
    engine = Engine(runner, CachedScheduler(len(requests), len(requests) + spare, budget), batch=len(requests))
    sequences = [engine.add(request) for request in requests]
    while engine.busy:
        engine.step()
    return [s.new_tokens for s in sequences]


requests = st.builds(
    lambda prompt, hop, sentence, salt, seed, steered: Request(
        tuple(prompt),
        Window(LIMIT, hop, "sentence" if sentence else "token"),
        ENDS if sentence else None,
        SAMPLED,
        seed,
        max_new_tokens=2 * LIMIT + 9,
        constraint=Steering() if steered else None,
        insertions=Varying(salt),
    ),
    st.lists(st.integers(0, 119), min_size=1, max_size=2 * LIMIT),
    st.integers(1, LIMIT),
    st.booleans(),
    st.integers(0, 1000),
    st.integers(0, 1000),
    st.booleans(),
)


@settings(deadline=None, max_examples=25)
@given(requests)
def test_the_context_of_every_token_is_what_the_contract_says(request):
    request = dataclasses.replace(request, max_new_tokens=None)
    grown = Sequence(request)
    tokens = [*request.prompt, *(at * 37 % 120 for at in range(3 * LIMIT))]
    for length, expected in enumerate(contexts(request, tokens), len(request.prompt)):
        assert grown.context().tolist() == expected
        assert len(expected) < SIZE.positions
        resumed = Sequence(dataclasses.replace(request, written=tuple(tokens[len(request.prompt) : length])))
        assert (resumed.start, resumed.next_start, resumed.inserted, resumed.next_inserted, resumed.slides) == (
            grown.start,
            grown.next_start,
            grown.inserted,
            grown.next_inserted,
            grown.slides,
        )
        if length < len(tokens) - 1:
            grown.append(tokens[length])


@settings(deadline=None, max_examples=8)
@given(st.lists(requests, min_size=1, max_size=3), st.integers(0, 3), st.integers(1, 64), st.data())
def test_cached_texts_equal_recomputed_ones_alone_together_and_resumed(runner, batch, spare, budget, data):
    together = run(runner, batch, spare, budget)
    for request, ids in zip(batch, together, strict=True):
        assert run(runner, [dataclasses.replace(request, recompute=True)], 0) == [ids]
        cut = data.draw(st.integers(1, len(ids) - 1))
        assert run(runner, [dataclasses.replace(request, written=tuple(ids[:cut]))]) == [ids]


@settings(deadline=None, max_examples=8)
@given(requests, st.integers(0, 1))
def test_cached_logits_equal_those_of_the_context(runner, request, spare):
    scheduler = CachedScheduler(1, 1 + spare, 64)
    sequence, step = Sequence(request), 0
    tokens = [at * 37 % 120 for at in range(2 * LIMIT)]
    expected = contexts(request, [*request.prompt, *tokens, 0])
    while step < len(tokens):
        work = scheduler.plan([sequence])
        logits = runner.next_logits([w.segment for w in work])
        if any(w.segment.logits for w in work):
            (want,) = runner.next_logits([Segment(next(expected))])
            torch.testing.assert_close(logits[0], want, atol=1e-4, rtol=1e-4)
            sequence.append(tokens[step])
            step += 1
    scheduler.release(sequence)


def test_a_window_with_insertions_moves_without_a_pause(runner):
    request = Request(
        (1, 2, 3), Window(LIMIT, LIMIT // 2), None, SAMPLED, 1, insertions=Varying(), max_new_tokens=4 * LIMIT
    )
    scheduler = CachedScheduler(1, 2, 64)
    engine = Engine(runner, scheduler, batch=1)
    engine.add(request)
    while engine.busy:
        engine.step()
    assert scheduler.counts.slides > 3
    assert scheduler.counts.slides_at_once == 0


def test_insertions_and_kept_tokens_exclude_each_other():
    with pytest.raises(ConfigError, match="window keep must be 0"):
        Request((1,), Window(8, 4, keep=1), None, SAMPLED, 1, insertions=Varying())
