"""The project's most important test: the cached decoder equals recomputing everything, far past the position table."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import cpm_gen
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.engine import Engine
from cpm_gen.engine.model_runner import SCORINGS, ModelRunner
from cpm_gen.engine.scheduler import BESIDE, CHUNK, CachedScheduler, RecomputeScheduler, ScheduledSegment
from cpm_gen.engine.sequence import Request, Sequence
from cpm_gen.engine.window import Window
from cpm_gen.llm import LLM
from cpm_gen.networks.interface import Segment
from cpm_gen.sampling.logprobs import TopCollector
from tests.random_networks import SMALL, load_runner, random_checkpoint

GREEDY = SamplingParams(temperature=0.0)
ENDS = {"token": None, "sentence": frozenset(range(0, 120, 9)), "eod": frozenset({7})}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelRunner]:
    folder = random_checkpoint(tmp_path_factory.mktemp("network"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_runner(folder, slots=8)
    torch.set_num_threads(threads)


windows = st.integers(0, 6).flatmap(
    lambda keep: st.builds(
        Window,
        limit=st.just(SMALL.positions - 1),
        hop=st.integers(1, SMALL.positions - 1 - keep),
        boundary=st.sampled_from(["token", "sentence", "eod"]),
        keep=st.just(keep),
    )
)
prompts = st.lists(st.integers(0, 119), min_size=1, max_size=40)


def next_logits(runner: ModelRunner, work: list[ScheduledSegment]) -> list[tuple[Sequence, torch.Tensor]]:
    logits = runner.next_logits([w.segment for w in work])
    return list(zip([w.sequence for w in work if w.segment.logits], logits, strict=True))


@settings(deadline=None, max_examples=30)
@given(
    window=windows,
    batch=st.lists(prompts, min_size=1, max_size=4),
    spare=st.integers(0, 4),
    budget=st.integers(1, 40),
    data=st.data(),
)
def test_logits_agree_at_every_token_over_many_slides(
    runner: ModelRunner, window: Window, batch: list[list[int]], spare: int, budget: int, data: st.DataObject
) -> None:
    """Any number of second slots, any budget, sequences that come and go in the middle of a slide."""
    cached = CachedScheduler(len(batch), len(batch) + spare, budget)
    running = []
    for prompt in batch:
        request = Request(prompt=tuple(prompt), window=window, ends=ENDS[window.boundary], params=GREEDY, seed=0)
        running.append(Sequence(request))
    first, slides = running[0], 0
    for step in range(4 * SMALL.positions + 100):
        work = cached.plan(running)
        assert work
        slots = [w.segment.slot for w in work]
        assert len(set(slots)) == len(slots), "one step must not write a slot twice"
        for sequence, logits in next_logits(runner, work):
            (expected,) = runner.next_logits([Segment(sequence.context().tolist())])
            torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
            sequence.append(int(expected.argmax()))
        if len(running) > 1 and step % 11 == 10:  # one leaves, wherever it is, and another comes
            gone = running.pop(data.draw(st.integers(1, len(running) - 1)))
            cached.release(gone)
            slides += gone.slides
            running.append(Sequence(gone.request))
        if first.step >= 3 * SMALL.positions:
            break
    assert first.step >= 3 * SMALL.positions, "nobody starves"
    for sequence in running:
        slides += sequence.slides
        cached.release(sequence)
    assert sorted(cached.free_slots) == list(range(len(batch) + spare)), "every slot came back"
    assert first.slides > 0
    assert cached.counts.slides <= slides


@pytest.mark.parametrize("hop", [1, 3, 5, 7, 8, 12, 15])
@pytest.mark.parametrize("boundary", ["token", "sentence"])
def test_with_a_second_slot_no_window_waits(runner: ModelRunner, hop: int, boundary: str) -> None:
    """After its prompt, a sequence gets a token at every step, and a slide encodes nothing that was not ready."""
    cached = CachedScheduler(1, 2, budget=64)
    window = Window(SMALL.positions - 1, hop, boundary)
    sequence = Sequence(Request(prompt=(1, 2), window=window, ends=ENDS[boundary], params=GREEDY, seed=0))
    for _ in range(150):
        work = cached.plan([sequence])
        assert sum(w.segment.logits for w in work) == 1
        ((_, logits),) = next_logits(runner, work)
        sequence.append(int(logits.argmax()))
    cached.plan([sequence])  # counts a slide that the last token caused
    assert cached.counts.slides == sequence.slides > 5
    if boundary == "token":
        assert cached.counts.slides_at_once == cached.counts.at_once == 0
        # every token of a window is encoded once ahead, save the newest; nothing else is
        assert cached.counts.ahead <= (cached.counts.slides + 1) * (window.limit - hop)
    else:  # where no boundary came, the fall-back is known only when the window is full
        assert cached.counts.slides_at_once < cached.counts.slides


def test_without_a_second_slot_windows_are_encoded_at_once_and_counted(runner: ModelRunner) -> None:
    cached = CachedScheduler(1, 1, budget=64)
    window = Window(SMALL.positions - 1, 5)
    sequence = Sequence(Request(prompt=(1, 2), window=window, ends=None, params=GREEDY, seed=0))
    for _ in range(60):
        ((_, logits),) = next_logits(runner, cached.plan([sequence]))
        sequence.append(int(logits.argmax()))
    assert cached.counts.slides_at_once == cached.counts.slides > 5
    assert cached.counts.at_once == cached.counts.slides * (window.limit + 1 - 5)
    assert cached.counts.ahead == 0


def rows_of_steps(cached: CachedScheduler, running: list[Sequence], steps: int) -> list[int]:
    """Rows in every step after all have moved their window once; no network, one token after the other."""
    rows = []
    for _ in range(steps):
        work = cached.plan(running)
        if all(s.slides for s in running):
            rows.append(sum(len(w.segment.ids) for w in work))
        for w in work:
            if w.segment.logits:
                w.sequence.append(5)
    return rows


def texts(window: Window, *prompts: int) -> list[Sequence]:
    return [Sequence(Request((1,) * n, window, ends=None, params=GREEDY, seed=0)) for n in prompts]


@pytest.mark.parametrize(("hop", "pace"), [(50, 1), (25, 3), (10, 9)])
def test_a_next_window_is_encoded_in_chunks_that_are_spread(hop: int, pace: int) -> None:
    """Its keys and values are read once for a chunk; between them are steps of one row, and none is much larger."""
    cached = CachedScheduler(1, 2, budget=256)
    rows = rows_of_steps(cached, texts(Window(100, hop), 2), 700)
    assert cached.counts.slides_at_once == 0
    assert sum(rows) / len(rows) == pytest.approx(1 + pace, rel=0.03)
    assert max(rows) <= 1 + max(CHUNK, pace + 1)
    assert sum(n > 1 for n in rows) <= len(rows) * (max(1.2 * pace, 0.2) / max(CHUNK, pace) + 0.06)


@pytest.mark.parametrize("apart", [0, 1, 7])
def test_the_next_windows_of_many_take_turns(apart: int) -> None:
    """Not all in the same step, not even of texts that move in the same step."""
    cached = CachedScheduler(8, 16, budget=256)
    rows = rows_of_steps(cached, texts(Window(401, 200), *(1 + apart * n for n in range(8))), 2400)
    assert cached.counts.slides_at_once == 0
    assert sum(rows) / len(rows) == pytest.approx(16, rel=0.02)
    assert sum(n > 16 + CHUNK for n in rows) <= 0.03 * len(rows), "but for the last steps before a move"
    assert max(rows) <= 8 * CHUNK


def test_second_slots_go_to_those_who_move_next() -> None:
    """So half as many serve texts whose windows do not move in the same step."""
    cached = CachedScheduler(8, 12, budget=256)
    rows = rows_of_steps(cached, texts(Window(101, 50), *(1 + 6 * n for n in range(8))), 1500)
    assert cached.counts.slides > 200
    assert cached.counts.slides_at_once == 0
    assert max(rows) <= 16 + 2 * CHUNK


def test_a_prompt_takes_little_of_a_step_where_others_wait_and_much_where_nobody_does() -> None:
    cached = CachedScheduler(2, 4, budget=256)
    writing, long = texts(Window(3000, 1500), 1500, 2500)
    alone = [sum(len(w.segment.ids) for w in cached.plan([writing])) for _ in range(2)]
    assert alone == [1024, 476]
    for _ in range(5):
        writing.append(5)
        first, *work = cached.plan([writing, long])
        assert first.sequence is writing and len(first.segment.ids) == 1
        assert [len(w.segment.ids) for w in work if w.sequence is long] == [BESIDE]
    cached.release(writing)
    (last,) = cached.plan([long])
    assert len(last.segment.ids) == 1024


def test_a_long_prompt_is_encoded_in_chunks_between_the_tokens_of_others(runner: ModelRunner) -> None:
    cached = CachedScheduler(2, 2, budget=4)
    window = Window(SMALL.positions - 1, 8)

    def sequence(*prompt: int) -> Sequence:
        return Sequence(Request(prompt=prompt, window=window, ends=None, params=GREEDY, seed=0))

    short, long = sequence(1), sequence(*range(12))
    running = [short]
    steps_with_long = 0
    for _ in range(8):
        work = cached.plan(running)
        assert sum(len(w.segment.ids) for w in work) <= 4
        advanced = next_logits(runner, work)
        assert advanced[0][0] is short, "the running sequence gets its token at every step"
        for s, logits in advanced:
            s.append(int(logits.argmax()))
        if long.step == 0 and running[-1] is long:
            steps_with_long += 1
        running = [short, long]
    assert steps_with_long == 3  # 12 tokens, 3 a step: the fourth step brings its first token
    assert long.step > 0


@settings(deadline=None, max_examples=10)
@given(window=windows, batch=st.lists(prompts, min_size=2, max_size=6), seed=st.integers(0, 2**64 - 1))
def test_a_batch_writes_what_each_prompt_writes_alone(
    runner: ModelRunner, window: Window, batch: list[list[int]], seed: int
) -> None:
    def requests() -> list[Request]:
        return [
            Request(
                prompt=tuple(prompt),
                window=window,
                ends=ENDS[window.boundary],
                params=GREEDY if n % 2 else SamplingParams(temperature=0.8, top_k=20, top_p=0.9),
                seed=seed,
                sample_index=n,
                max_new_tokens=20 + n,
            )
            for n, prompt in enumerate(batch)
        ]

    def run(engine: Engine, wanted: list[Request]) -> list[list[int]]:
        sequences = [engine.add(r) for r in wanted]
        while engine.busy:
            engine.step()
        return [s.new_tokens for s in sequences]

    alone = [run(Engine(runner, RecomputeScheduler(), batch=1), [r])[0] for r in requests()]
    together = Engine(runner, CachedScheduler(4, 5, budget=16), batch=4)  # fewer slots than requests: some wait
    assert run(together, requests()) == alone
    assert [len(tokens) for tokens in alone] == [20 + n for n in range(len(batch))]


@pytest.fixture(scope="module", params=[1, 2, pytest.param(4, marks=pytest.mark.slow)], ids=lambda p: f"degree{p}")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LLM, list[list[int]]]]:
    """A cached decoder at some degree, and what the oracle at degree 1 writes for PROMPTS."""
    folder = random_checkpoint(tmp_path_factory.mktemp("network"), degree=2)
    options = {"window_hop": 5, "window_keep": 2}
    with cpm_gen.load(folder, decoder="recompute", **options) as oracle:
        expected = [run_ids(oracle, [prompt])[0] for prompt in PROMPTS]
    with cpm_gen.load(folder, tensor_parallel=request.param, **options) as llm:
        yield llm, expected


PROMPTS = [[3, 5], list(range(10, 40)), [7], [1, 7, 2, 7, 3, 7]]


def run_ids(llm: LLM, prompts: list[list[int]]) -> list[list[int]]:
    sequences = [
        llm.engine.token_engine.add(
            Request(prompt=tuple(p), window=llm.window, ends=None, params=GREEDY, seed=0, max_new_tokens=50)
        )
        for p in prompts
    ]
    while llm.engine.token_engine.busy:
        llm.engine.token_engine.step()
    return [s.new_tokens for s in sequences]


def test_any_degree_writes_what_the_oracle_writes_in_a_batch(pair: tuple[LLM, list[list[int]]]) -> None:
    llm, expected = pair
    assert run_ids(llm, PROMPTS) == expected


def test_any_degree_scores_alike(pair: tuple[LLM, list[list[int]]], tmp_path: Path) -> None:
    llm, _ = pair
    ids = [i % 120 for i in range(0, 400, 7)]  # four windows long
    with_one = _scores_by_hand(llm, ids)
    got = llm.score(ids)
    assert got[0] is None
    assert got[1:] == pytest.approx(with_one[1:], abs=1e-4)


def test_scoring_in_parts_beside_texts_gives_the_same(pair: tuple[LLM, list[list[int]]]) -> None:
    """Two at once, steps between all passes; as many bits the same as the kernels promise, the texts too."""
    llm, expected = pair
    several, one = [i % 120 for i in range(0, 400, 7)], [5] * 3
    alone = [llm.score(ids)[1:] for ids in (several, one)]
    engine, window = llm.engine.token_engine, llm.window
    sequences = [
        engine.add(Request(prompt=tuple(p), window=window, ends=None, params=GREEDY, seed=0, max_new_tokens=50))
        for p in PROMPTS
    ]
    running = [llm.engine.scoring(ids) for ids in (several, several, one)]
    parts: list[list[list[float]]] = [[], [], []]
    while engine.busy:
        engine.step()
        for scoring, found in zip(running, parts, strict=True):
            found += [part for part in [next(scoring, None)] if part is not None]
    assert [s.new_tokens for s in sequences] == expected
    for found, scores in zip(parts, [alone[0], alone[0], alone[1]], strict=True):
        assert list(chain(*found)) == pytest.approx(scores, abs=1e-5)
    assert [len(part) for part in parts[0]] == [len(part) for part in parts[1]]


def test_scoring_beside_texts_is_encoded_in_parts_as_prompts_are(tmp_path: Path) -> None:
    size = ModelSize(1, 32, 4, 120, 512)
    with cpm_gen.load(random_checkpoint(tmp_path, size), window_hop=100) as llm:
        ids = [i % 120 for i in range(0, 4200, 7)]
        alone = list(llm.engine.scoring(ids))
        assert [len(part) for part in alone] == [511, 88]
        passes: list[tuple[int, int | None, int]] = []  # where it begins, its slot, how long it is
        score = llm.engine.loaded.runner.score

        def noted(segment: Segment, targets: list[int], top: TopCollector | None) -> list[float]:
            passes.append((segment.start, segment.slot, len(segment.ids)))
            return score(segment, targets, top)

        llm.engine.loaded.runner.score = noted  # type: ignore[method-assign]
        text = llm.engine.token_engine.add(Request(prompt=(5,), window=llm.window, ends=None, params=GREEDY, seed=0))
        scoring = [llm.engine.scoring(ids) for _ in range(SCORINGS + 1)]
        first = [next(s) for s in scoring]
        slots = [slot for _, slot, _ in passes]
        assert [len(part) for part in first] == [BESIDE] * SCORINGS + [511]  # no slot was left for the last
        assert sorted(slots[:-1]) == list(llm.engine.loaded.runner.scoring_slots) and slots[-1] is None  # type: ignore[type-var]
        del scoring[1:]  # who left gives back the slot
        parts = [first[0], *scoring[0]]
        assert list(chain(*parts)) == pytest.approx(list(chain(*alone)), abs=1e-4)
        assert max(length for _, _, length in passes[SCORINGS + 1 :]) == BESIDE
        # of the second window's 499 tokens only the last 88 are scored
        assert [len(part) for part in parts] == [64] * 7 + [63] + [0] * 6 + [37, 51]
        assert llm.engine.token_engine.free_scoring_slots == SCORINGS
        again = llm.engine.scoring(ids)
        assert len(next(again)) == BESIDE
        llm.engine.token_engine.cancel(text)
        assert [len(part) for part in again] == [511 - BESIDE, 88]  # nobody waits any more
        assert llm.engine.token_engine.free_scoring_slots == SCORINGS


def _scores_by_hand(llm: LLM, ids: list[int]) -> list[float | None]:
    """One recomputed context per token."""
    result: list[float | None] = [None]
    for n in range(1, len(ids)):
        sequence = Sequence(Request(prompt=tuple(ids[:n]), window=llm.window, ends=None, params=GREEDY, seed=0))
        (logits,) = llm.engine.loaded.runner.next_logits([Segment(sequence.context().tolist())])
        result.append(float(logits.double().log_softmax(0)[ids[n]]))
    return result


def test_cancelling_frees_the_slot_for_the_next(runner: ModelRunner) -> None:
    engine = Engine(runner, CachedScheduler(1, 1, budget=64), batch=1)
    window = Window(SMALL.positions - 1, 4)

    def request(n: int) -> Request:
        return Request(prompt=(n,), window=window, ends=None, params=GREEDY, seed=0, max_new_tokens=30)

    first, second = engine.add(request(1)), engine.add(request(2))
    for _ in range(25):  # past the first slide
        engine.step()
    engine.cancel(first)
    assert first.finish_reason == "cancelled"
    while engine.busy:
        engine.step()
    assert second.finish_reason == "length"
    assert len(second.new_tokens) == 30
    assert len(first.new_tokens) == 25


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs_past_the_window_and_stays_near(tmp_path: Path, dtype: str) -> None:
    folder = random_checkpoint(tmp_path)
    with cpm_gen.load(folder) as full, cpm_gen.load(folder, dtype=dtype) as half:
        ids = [i % 120 for i in range(0, 200, 7)]
        assert half.score(ids)[1:] == pytest.approx(full.score(ids)[1:], abs=0.35)
        assert len(run_ids(half, [[3, 5]])[0]) == 50
