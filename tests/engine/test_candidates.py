"""Texts with candidates for each sentence, against a plain reference that runs the whole context for every token and shares no state."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.engine import Engine
from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.engine.scheduler import CachedScheduler, RecomputeScheduler, Scheduler
from cpm_gen.engine.sequence import SENTENCE_TOKENS, Request
from cpm_gen.engine.sequence import Sequence as Text
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError
from cpm_gen.networks.interface import Segment
from cpm_gen.sampling.ranking import EARLIER, PRIOR, SAMENESS, Sentences
from cpm_gen.sampling.sample import sample
from tests.random_networks import load_runner, random_checkpoint

ENDS = frozenset(range(0, 120, 9))
SENTENCES = Sentences(lambda ids: "".join(chr(0x4E00 + i % 60) for i in ids), ENDS)
SAMPLED = SamplingParams(temperature=1.3, top_k=60, presence_penalty=0.3)
DRY = SamplingParams(temperature=1.2, dry_multiplier=0.8, repetition_penalty=1.1, no_repeat_ngram=3)
WINDOWS = [Window(15, 5), Window(15, 4, "sentence"), Window(15, 3, keep=4), Window(15, 1)]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelRunner]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_runner(random_checkpoint(tmp_path_factory.mktemp("network")), slots=24, kernels="torch")
    torch.set_num_threads(threads)


def request(**changes: object) -> Request:
    window = changes.get("window", Window(15, 5))
    assert isinstance(window, Window)
    whole: dict[str, object] = {
        "prompt": (5, 17, 33),
        "window": window,
        "ends": None if window.boundary == "token" else ENDS,
        "params": SAMPLED,
        "seed": 3,
        "max_new_tokens": 60,
        "candidates": 4,
        "sentences": SENTENCES,
    }
    return Request(**whole | changes)  # type: ignore[arg-type]


def write(runner: ModelRunner, requests: Sequence[Request], scheduler: Scheduler | None = None) -> list[Text]:
    engine = Engine(runner, scheduler or CachedScheduler(12, 24, 40), batch=12)
    texts = [engine.add(r) for r in requests]
    while engine.busy:
        engine.step()
    if isinstance(engine.scheduler, CachedScheduler):
        assert sorted(engine.scheduler.free_slots) == list(range(engine.scheduler.slots)), "a slot was lost"
    return texts


def sentences(runner: ModelRunner, wanted: Request) -> tuple[Text, list[int]]:
    """A text written alone, and its number of tokens after each sentence."""
    engine = Engine(runner, CachedScheduler(4, 8, 40), batch=4)
    text = engine.add(wanted)
    ends = []
    while engine.busy:
        if engine.step():
            ends.append(text.step)
    return text, ends


def draw(
    runner: ModelRunner, wanted: Request, tokens: list[int], candidate: int, allowed: NDArray[np.intp] | None = None
) -> tuple[int, float]:
    """The next token of a row with these tokens, the prompt's included, and its log-probability; nothing is kept between calls."""
    written = tuple(tokens[len(wanted.prompt) :])
    seen = Text(dataclasses.replace(wanted, written=written))
    context = seen.context().tolist()
    (logits,) = runner.next_logits([Segment(context)]).numpy()
    token = sample(
        logits,
        wanted.params,
        context=context,
        written=seen.context_written(),
        forbidden=(),
        seed=wanted.seed,
        sample_index=wanted.sample_index,
        step=len(written),
        candidate=candidate,
        history=tokens,
        allowed=allowed,
    )
    wide = logits.astype(np.float64)
    return token, float(wide[token] - np.logaddexp.reduce(wide))


def reference(runner: ModelRunner, wanted: Request) -> list[int]:
    """The generated ids, by a loop over sentences and candidates that knows no rows, slots or steps."""
    tokens = list(wanted.prompt + tuple(wanted.written))
    most = len(wanted.prompt) + (wanted.max_new_tokens or 0)
    while len(tokens) < most:
        found = []
        for candidate in range(wanted.candidates):
            own, logprob = list(tokens), 0.0
            while len(own) < most:
                token, chance = draw(runner, wanted, own, candidate)
                logprob += chance
                own.append(token)
                if token in ENDS or len(own) - len(tokens) == SENTENCE_TOKENS:
                    break
            found.append((own[len(tokens) :], logprob))
        mean = sum(p for _, p in found) / sum(len(s) for s, _ in found)
        before = {i % 60 for i in tokens[-EARLIER:]}
        scores = [
            round(p / (len(s) + PRIOR) - SAMENESS * sum(i % 60 in before for i in s) / len(s), 3)
            + round(PRIOR * mean / (len(s) + PRIOR), 3)
            for s, p in found
        ]
        tokens += found[int(np.argmax(np.round(scores, 3)))][0]
    return tokens[len(wanted.prompt) :]


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("params", [SAMPLED, DRY], ids=["sampled", "dry"])
def test_a_text_is_that_of_a_plain_loop(runner: ModelRunner, window: Window, params: SamplingParams) -> None:
    wanted = request(window=window, params=params)
    [text] = write(runner, [wanted])
    assert text.new_tokens == reference(runner, wanted)
    assert (text.finish_reason, text.step) == ("length", 60)
    assert text.slides >= 3


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_texts_are_the_same_alone_together_and_recomputed(runner: ModelRunner, window: Window) -> None:
    wanted = [
        request(window=window, sample_index=index, prompt=tuple(range(1, 4 + 9 * index)), candidates=count)
        for index, count in enumerate((4, 1, 3, 8, 2))
    ]
    together = [text.new_tokens for text in write(runner, wanted)]
    assert [write(runner, [one])[0].new_tokens for one in wanted] == together
    assert [t.new_tokens for t in write(runner, [dataclasses.replace(r, recompute=True) for r in wanted])] == together
    assert [t.new_tokens for t in write(runner, wanted, RecomputeScheduler())] == together
    assert [t.new_tokens for t in write(runner, wanted, CachedScheduler(12, 24, 3))] == together
    assert len(set(map(tuple, together))) == len(wanted)


@pytest.mark.parametrize("params", [SAMPLED, DRY], ids=["sampled", "dry"])
def test_a_text_resumes_at_every_sentence(runner: ModelRunner, params: SamplingParams) -> None:
    wanted = request(params=params, window=Window(15, 4, "sentence"))
    text, cuts = sentences(runner, wanted)
    assert len(cuts) > 3
    for cut in cuts[:-1]:
        [resumed] = write(runner, [dataclasses.replace(wanted, written=tuple(text.new_tokens[:cut]))])
        assert (resumed.tokens, resumed.start, resumed.slides) == (text.tokens, text.start, text.slides)


def test_one_candidate_is_the_text_of_today_and_candidate_0_begins_like_it(runner: ModelRunner) -> None:
    [plain] = write(runner, [request(candidates=1, sentences=None)])
    assert write(runner, [request(candidates=1)])[0].tokens == plain.tokens
    engine = Engine(runner, CachedScheduler(4, 4, 40), batch=4)
    text = engine.add(request())
    while not engine.step():
        pass
    assert text.choice is not None
    first = text.choice.candidates[0].token_ids
    assert list(first) == plain.new_tokens[: len(first)]
    assert first[-1] in ENDS
    assert len({c.token_ids for c in text.choice.candidates}) == 4
    assert tuple(text.new_tokens) == text.choice.candidates[text.choice.kept].token_ids


def test_nothing_is_encoded_again_for_candidates(runner: ModelRunner) -> None:
    scheduler = CachedScheduler(4, 8, 40)
    engine = Engine(runner, scheduler, batch=4)
    text = engine.add(request(prompt=tuple(range(1, 9)), max_new_tokens=6, params=SAMPLED))
    while engine.busy:
        engine.step()
    assert scheduler.counts.prompt == 8
    assert scheduler.counts.decoded <= 4 * 6
    assert text.step == 6


def test_each_candidate_takes_a_place_of_the_batch(runner: ModelRunner) -> None:
    engine = Engine(runner, CachedScheduler(8, 8, 40), batch=8)
    texts = [engine.add(request(candidates=count, sample_index=i)) for i, count in enumerate((5, 4, 1))]
    engine.step()
    assert (engine.running, engine.waiting) == (1, 2), "first come, first served"
    while texts[0].finish_reason is None:
        engine.step()
    engine.step()
    assert engine.running == 2
    with pytest.raises(ConfigError, match="9 candidates do not fit a batch of 8"):
        engine.add(request(candidates=9))


def test_a_text_leaves_in_the_middle_of_a_sentence_and_frees_its_slots(runner: ModelRunner) -> None:
    scheduler = CachedScheduler(8, 12, 40)
    engine = Engine(runner, scheduler, batch=8)
    leaving, staying = engine.add(request()), engine.add(request(sample_index=1))
    for _ in range(4):
        engine.step()
    engine.cancel(leaving)
    assert leaving.finish_reason == "cancelled"
    while engine.busy:
        engine.step()
    assert sorted(scheduler.free_slots) == list(range(12))
    assert staying.new_tokens == write(runner, [request(sample_index=1)])[0].new_tokens


def test_a_sentence_without_an_end_is_cut_at_its_bound(runner: ModelRunner) -> None:
    endless = request(sentences=Sentences(SENTENCES.read, frozenset()), max_new_tokens=2 * SENTENCE_TOKENS + 5)
    _, steps = sentences(runner, endless)
    assert steps == [SENTENCE_TOKENS, 2 * SENTENCE_TOKENS, 2 * SENTENCE_TOKENS + 5]


def test_log_probabilities_are_those_of_the_kept_candidates(runner: ModelRunner) -> None:
    [text] = write(runner, [request(logprobs=0, scored=True)])
    assert [entry.token for entry in text.likelihoods] == text.new_tokens
    assert sum(entry.logprob for entry in text.likelihoods) == pytest.approx(text.logprob, abs=1e-3)


def test_candidates_of_equal_tokens_are_one_row_of_the_network(runner: ModelRunner) -> None:
    certain = dataclasses.replace(SAMPLED, top_k=1)  # all candidates draw the same tokens
    scheduler = CachedScheduler(12, 24, 40)
    engine = Engine(runner, scheduler, batch=12)
    text = engine.add(request(params=certain, max_new_tokens=12, candidates=6))
    used = 0
    while engine.busy:
        engine.step()
        used = max(used, scheduler.slots_used)
    assert (scheduler.counts.decoded, used) == (11, 1)  # the first token is drawn after the prompt
    (alone,) = write(runner, [request(params=certain, max_new_tokens=12, candidates=1)])
    assert text.new_tokens == alone.new_tokens
