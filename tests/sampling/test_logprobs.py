"""Log-probabilities of written tokens against torch's log-softmax and the engine's scores."""

import numpy as np
import pytest
import torch

import cpm_gen
from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.sampling.logprobs import likelihood, logprobs_of, on_device, perplexity


@pytest.mark.parametrize("count", [0, 1, 5, 40, 99])
def test_it_is_torchs_log_softmax(count):
    logits = np.random.default_rng(1).normal(size=40).astype(np.float32) * 5
    known = likelihood(logits, 7, count)
    expected = torch.from_numpy(logits.astype(np.float64)).log_softmax(0)
    assert known.logprob == pytest.approx(float(expected[7]), abs=1e-9)
    best = expected.topk(min(count, 40))
    assert [i for i, _ in known.top] == best.indices.tolist()
    assert [p for _, p in known.top] == pytest.approx(best.values.tolist(), abs=1e-9)


def test_equals_stand_in_the_order_of_their_ids():
    assert [i for i, _ in likelihood(np.array([1, 3, 2, 3, 3], dtype=np.float32), 0, 2).top] == [1, 3]


def test_huge_logits_do_not_overflow():
    known = likelihood(np.array([1e30, 0, -1e30], dtype=np.float32), 0, 1)
    assert known.logprob == 0


def test_written_tokens_get_what_score_says_of_them():
    with cpm_gen.load() as llm:
        text = TextOptions(max_new_tokens=12, seed=1)
        prompt = llm.encode("明月几时有")
        from collections import deque

        ready = deque()
        writers = llm.engine.begin(
            llm.engine.requests([prompt], SamplingParams(temperature=0.7), text, logprobs=3), text, ready
        )
        while not writers[0].done:
            llm.engine.step()
        llm.engine.end(writers)
        known = [k for chunk in ready for k in chunk.likelihoods]
        ids = [i for chunk in ready for i in chunk.token_ids]
        assert [k.token for k in known] == ids
        assert [k.logprob for k in known] == pytest.approx(llm.score(prompt + ids)[len(prompt) :], abs=1e-4)
        assert all(len(k.top) == 3 and k.top[0][1] >= k.logprob - 1e-9 for k in known)


def test_perplexity_is_the_exponential_of_the_mean_and_none_where_there_is_no_such_number():
    assert perplexity([None, -1.0, -3.0]) == pytest.approx(np.exp(2))
    assert perplexity([None]) is None
    assert perplexity([]) is None
    assert perplexity([None, -709.0]) == pytest.approx(np.exp(709.0))
    assert perplexity([None, -710.0]) is None
    assert perplexity([None, -np.inf]) is None


@pytest.mark.parametrize("rows", [(0, 1, 2), (1, 1, 1, 3), (3, 0)])
def test_tokens_of_several_rows_have_the_log_probabilities_of_each(rows: tuple[int, ...]) -> None:
    logits = torch.randn(4, 500, generator=torch.Generator().manual_seed(3)) * 5
    tokens = tuple(7 * row + at for at, row in enumerate(rows))
    want = [float(logits[row].double().log_softmax(0)[token]) for row, token in zip(rows, tokens, strict=True)]
    assert logprobs_of(logits, rows, tokens) == pytest.approx(want, abs=1e-4)
    assert on_device(logits, rows, tokens) == pytest.approx(want, abs=1e-9)
