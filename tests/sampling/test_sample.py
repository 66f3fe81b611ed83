"""Sampling against plain restatements: Hugging Face's warpers in torch, formulae, brute force, Philox from its paper."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cpm_gen.config.options import SamplingParams
from cpm_gen.errors import ConfigError, NumericsError
from cpm_gen.sampling import penalties
from cpm_gen.sampling import sample as sampling
from tests.oracles import distribution

SEEDS = st.integers(0, 2**32 - 1)
LOGITS = st.lists(st.floats(-50, 50), min_size=2, max_size=40).map(np.array)


def random_logits(seed: int, size: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size) * 3


def warped(logits: np.ndarray, *, temperature=1.0, top_k=0, top_p=0.0, min_p=0.0) -> np.ndarray:
    """Probabilities after Hugging Face's warpers in their order."""
    scores = torch.from_numpy(logits) / temperature
    if top_k:
        smallest = torch.topk(scores, min(top_k, len(scores))).values[-1]
        scores = scores.masked_fill(scores < smallest, -math.inf)
    if 0 < top_p < 1:
        ascending, order = torch.sort(scores)
        remove = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
        remove[-1] = False
        scores = scores.masked_fill(torch.zeros_like(remove).scatter(0, order, remove), -math.inf)
    if min_p:
        probabilities = scores.softmax(-1)
        scores = scores.masked_fill(probabilities < min_p * probabilities.max(), -math.inf)
    return scores.softmax(-1).numpy()


def kept(logits: list[float], **params: float) -> list[int]:
    return np.flatnonzero(distribution(np.array(logits, dtype=np.float64), SamplingParams(**params))).tolist()


def draw(logits: list[float], params: SamplingParams, **other) -> int:
    defaults = {"context": [], "written": [], "forbidden": [], "seed": 1, "sample_index": 0, "step": 0}
    return sampling.sample(np.array(logits, dtype=np.float32), params, **(defaults | other))


# filters


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.5},
        {"top_k": 1},
        {"top_k": 7},
        {"top_k": 1000},
        {"top_p": 0.3},
        {"top_p": 0.9},
        {"top_p": 0.9999},
        {"top_p": 1.0},
        {"min_p": 0.05},
        {"min_p": 1.0},
        {"temperature": 0.7, "top_k": 12, "top_p": 0.8},
        {"temperature": 1.8, "top_k": 30, "top_p": 0.95, "min_p": 0.02},
        {"temperature": 3.0, "top_p": 0.6, "min_p": 0.3},
    ],
    ids=str,
)
def test_distribution_is_hugging_faces(params):
    for seed in range(30):
        logits = random_logits(seed)
        got = distribution(logits, SamplingParams(**params))
        np.testing.assert_allclose(got, warped(logits, **params), rtol=1e-9, atol=1e-15, err_msg=f"seed {seed}")


@settings(max_examples=300, deadline=None)
@given(SEEDS, st.floats(0.05, 20), st.integers(0, 70), st.floats(0, 1), st.floats(0, 1))
def test_distribution_is_hugging_faces_for_any_settings(seed, temperature, top_k, top_p, min_p):
    logits = random_logits(seed)
    params = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    got = distribution(logits, SamplingParams(**params))
    np.testing.assert_allclose(got, warped(logits, **params), rtol=1e-9, atol=1e-15)


@settings(deadline=None)
@given(LOGITS, st.floats(0, 100), st.integers(0, 50), st.floats(0, 1), st.floats(0, 1))
@example(np.array([0.0, 1.2e-38]), 1.0, 1, 0.0, 0.0)
def test_distribution_sums_to_one_and_keeps_the_best_token(logits, temperature, top_k, top_p, min_p):
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    probabilities = distribution(logits, params)
    assert probabilities.shape == logits.shape
    assert probabilities.min() >= 0
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    # of logits that float64 cannot tell apart once the best one is subtracted, top-p keeps the first that top-k left
    with np.errstate(over="ignore"):
        weights = np.exp((logits - logits.max()) / temperature) if temperature else logits.copy()
    if 0 < top_k < len(logits):
        weights[logits < np.sort(logits)[-top_k]] = -np.inf
    assert probabilities[np.argmax(weights)] == probabilities.max()


@settings(deadline=None)
@given(LOGITS)
def test_distribution_leaves_its_argument_alone(logits):
    before = logits.copy()
    distribution(logits, SamplingParams(temperature=0.5, top_k=2, top_p=0.5, min_p=0.1))
    assert np.array_equal(logits, before)


def test_zero_switches_every_filter_off():
    assert kept([3, 2, 1, 0], top_k=0, top_p=0, min_p=0) == [0, 1, 2, 3]
    assert kept([3, 2, 1, 0], top_p=1) == [0, 1, 2, 3]


def test_top_k_keeps_ties_with_the_kth_token():
    assert kept([2, 3, 2, 1, 2], top_k=2) == [0, 1, 2, 4]
    assert kept([3, 3, 1], top_k=1) == [0, 1]


def test_top_k_tells_tokens_apart_that_a_great_temperature_makes_equal():
    assert kept([1, 1 + 2e-15, 1 + 1e-15], top_k=1, temperature=100) == [1]


def test_top_p_keeps_the_token_that_crosses():
    halves = [math.log(p) for p in (0.5, 0.25, 0.125, 0.125)]
    assert kept(halves, top_p=0.4) == [0]
    assert kept(halves, top_p=0.6) == [0, 1]
    assert kept(halves, top_p=0.8) == [0, 1, 2]
    assert kept(halves, top_p=0.9) == [0, 1, 2, 3]
    assert kept(halves, top_p=1e-300) == [0]


def test_top_p_reached_exactly_needs_no_further_token():
    assert kept([0, 0, 0, 0], top_p=0.5) == [0, 1]
    assert kept([0, 0, 0, 0], top_p=0.51) == [0, 1, 2]


@settings(deadline=None)
@given(LOGITS, st.floats(0.01, 0.99))
def test_top_p_is_the_smallest_set_with_that_probability(logits, top_p):
    plain = np.exp(logits - logits.max())
    plain /= plain.sum()
    mask = distribution(logits, SamplingParams(top_p=top_p)) > 0
    assert plain[mask].sum() >= top_p - 1e-9
    assert plain[mask].sum() - plain[mask].min() < top_p + 1e-9
    assert plain[mask].min() >= plain[~mask].max(initial=0)


def test_top_p_looks_at_the_distribution_that_temperature_and_top_k_leave():
    logits = [math.log(p) for p in (0.4, 0.3, 0.2, 0.1)]
    assert kept(logits, top_p=0.5) == [0, 1]
    assert kept(logits, top_p=0.5, temperature=0.25) == [0]
    assert kept(logits, top_p=0.56) == [0, 1]
    assert kept(logits, top_p=0.56, top_k=2) == [0]  # 0.4 of 0.7


def test_min_p_is_a_fraction_of_the_best_tokens_probability():
    logits = [math.log(p) for p in (0.6, 0.2, 0.15, 0.05)]
    assert kept(logits, min_p=0.05) == [0, 1, 2, 3]
    assert kept(logits, min_p=0.1) == [0, 1, 2]
    assert kept(logits, min_p=0.3) == [0, 1]
    assert kept(logits, min_p=1) == [0]
    assert kept([5, 5, 4], min_p=1) == [0, 1]


@settings(deadline=None)
@given(LOGITS)
def test_temperature_zero_is_greedy_and_takes_the_lowest_id_among_equals(logits):
    probabilities = distribution(logits, SamplingParams(temperature=0))
    assert probabilities.tolist() == [float(i == logits.tolist().index(max(logits))) for i in range(len(logits))]


@settings(deadline=None)
@given(SEEDS, st.integers(0, 2**64 - 1), st.integers(0, 9), st.integers(0, 10**6))
def test_greedy_does_not_depend_on_the_seed(seed, key, sample, step):
    logits = random_logits(seed)
    params = SamplingParams(temperature=0)
    assert draw(logits, params, seed=key, sample_index=sample, step=step) == np.argmax(logits.astype(np.float32))


@settings(deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False) | st.just(-math.inf), min_size=1, max_size=20),
    st.sampled_from([0, 5e-324, 1e-320, 1e-30, 1e-5, 1, 30, 100]),
    st.sampled_from([0, 0.5]),
)
def test_no_temperature_makes_nan_of_finite_logits(values, temperature, top_p):
    logits = np.array([*values, 0.0])
    probabilities = distribution(logits, SamplingParams(temperature=temperature, top_p=top_p))
    assert np.isfinite(probabilities).all()
    assert probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert not probabilities[np.isneginf(logits)].any()


@pytest.mark.parametrize("temperature", [5e-324, 1e-30])
def test_tiny_temperature_shares_among_the_best_tokens_only(temperature):
    got = distribution(np.array([7.0, 9.0, 9.0, 8.999]), SamplingParams(temperature=temperature))
    assert got.tolist() == [0, 0.5, 0.5, 0]


def test_a_great_temperature_makes_nearly_equal_tokens_equal():
    got = distribution(np.array([-1e-16, 0.0, 1e-16, 3e-17]), SamplingParams(temperature=100))
    assert got.tolist() == [0.25] * 4


# penalties and bans


@settings(deadline=None)
@given(SEEDS, st.lists(st.integers(0, 59), max_size=30), st.floats(0.2, 5))
def test_repetition_penalty_is_ctrls(seed, context, penalty):
    logits = random_logits(seed)
    got = penalties.penalise(logits, SamplingParams(repetition_penalty=penalty), context, [])
    for i, value in enumerate(logits):
        expected = value if i not in context else value / penalty if value > 0 else value * penalty
        assert got[i] == pytest.approx(expected, rel=1e-12)


@settings(deadline=None)
@given(SEEDS, st.lists(st.integers(0, 59), max_size=40), st.floats(-3, 3), st.floats(-3, 3))
def test_presence_and_frequency_penalties_are_openais(seed, written, presence, frequency):
    logits = random_logits(seed)
    params = SamplingParams(presence_penalty=presence, frequency_penalty=frequency)
    got = penalties.penalise(logits, params, written, written)
    for i, value in enumerate(logits):
        count = written.count(i)
        assert got[i] == pytest.approx(value - count * frequency - (count > 0) * presence, rel=1e-12, abs=1e-12)


def test_presence_and_frequency_look_only_at_what_was_written():
    params = SamplingParams(presence_penalty=1, frequency_penalty=1)
    got = penalties.penalise(np.zeros(4), params, context=[0, 1, 1, 2], written=[1, 1])
    assert got.tolist() == [0, -3, 0, 0]


def test_repetition_penalty_looks_at_the_whole_context():
    got = penalties.penalise(np.array([2.0, -2.0, 2.0]), SamplingParams(repetition_penalty=2), [0, 1], [])
    assert got.tolist() == [1, -4, 2]


def test_penalise_leaves_its_argument_alone():
    logits = np.ones(5)
    params = SamplingParams(
        repetition_penalty=2, presence_penalty=1, frequency_penalty=1, no_repeat_ngram=1, banned_ids=(4,)
    )
    penalties.penalise(logits, params, [0, 1], [1], forbidden=[2])
    assert logits.tolist() == [1] * 5


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 6))
def test_ngram_bans_are_exactly_the_tokens_that_would_repeat_an_ngram(context, n):
    present = {tuple(context[i : i + n]) for i in range(len(context) - n + 1)}
    repeating = {t for t in range(4) if tuple([*context, t][-n:]) in present}
    assert set(penalties.ngram_bans(context, n)) == repeating


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_ngram_is_ever_written_twice(n):
    params, context = SamplingParams(no_repeat_ngram=n), []
    for step in range(8 if n == 1 else 30):
        context.append(draw([0.0] * 8, params, context=context, step=step))
    grams = [tuple(context[i : i + n]) for i in range(len(context) - n + 1)]
    assert len(grams) == len(set(grams))


def test_banned_and_forbidden_ids_are_never_chosen():
    params = SamplingParams(banned_ids=(0, 3, 999))  # one outside the vocabulary bans nothing
    chosen = {draw([9.0, 0.0, 8.0, 9.0, 0.0], params, forbidden=[2], step=step) for step in range(60)}
    assert chosen == {1, 4}


def test_greedy_takes_the_best_token_that_is_not_banned():
    assert draw([5.0, 4.0, 3.0], SamplingParams(temperature=0, banned_ids=(0,)), forbidden=frozenset({1})) == 2


def test_bans_come_before_filters():
    assert draw([9.0, 1.0, 0.0], SamplingParams(top_k=1, banned_ids=(0,))) == 1


# randomness


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox 4x64-10, written from Salmon et al. 2011."""
    full = 2**64 - 1
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (second >> 64) ^ b ^ k0, second & full, (first >> 64) ^ d ^ k1, first & full
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & full, (k1 + 0xBB67AE8584CAA73B) & full
    return a, b, c, d


def test_the_restated_philox_gives_random123s_known_answers():
    full = 2**64 - 1
    assert [f"{word:016x}" for word in philox((0, 0, 0, 0), (0, 0))] == [
        "16554d9eca36314c",
        "db20fe9d672d0fdc",
        "d7e772cee186176b",
        "7e68b68aec7ba23b",
    ]
    assert [f"{word:016x}" for word in philox((full,) * 4, (full, full))] == [
        "87b092c3013fe90b",
        "438c3c67be8d0224",
        "9cc7d7c69cd777b6",
        "a09caebf594f0ba0",
    ]


@settings(deadline=None)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**32), st.integers(0, 2**40))
def test_uniform_is_the_high_bits_of_philox_at_the_next_counter(seed, sample, step):
    word = philox((step + 1, 0, 0, 0), (seed, sample))[0]
    u = sampling.uniform(seed, sample, step)
    assert u == (word >> 11) / 2**53
    assert 0 <= u < 1


@pytest.mark.parametrize("place", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**64 - 1, 7, 123456)])
def test_uniform_is_what_numpys_generator_draws_first(place):
    seed, sample, step = place
    bits = np.random.Philox(key=np.array([seed, sample], dtype=np.uint64), counter=step)
    assert sampling.uniform(*place) == np.random.Generator(bits).random()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((0, 0, 0), 0.011546754286331562),
        ((1, 0, 0), 0.3035680343067586),
        ((2**64 - 1, 3, 1000000), 0.40932857155479274),
    ],
)
def test_uniform_never_changes_between_versions(place, value):
    assert sampling.uniform(*place) == value


def test_uniform_differs_in_each_argument_and_depends_on_nothing_else():
    places = [(seed, sample, step) for seed in range(8) for sample in range(8) for step in range(8)]
    first = [sampling.uniform(*p) for p in places]
    np.random.default_rng(0).shuffle(order := list(range(len(places))))
    again = {i: sampling.uniform(*places[i]) for i in order}
    assert len(set(first)) == len(places)
    assert [again[i] for i in range(len(places))] == first


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("axis", ["seed", "sample", "step"])
def test_chosen_tokens_come_as_often_as_their_probability_says(axis):
    probabilities = np.array([0.5, 0.0, 0.2, 0.15, 0.1, 0.04, 0.01])
    draws = 6000
    place = {"seed": 11, "sample": 0, "step": 5}
    chosen = [sampling.choose(probabilities, sampling.uniform(**(place | {axis: i}))) for i in range(draws)]
    counts = np.bincount(chosen, minlength=7)
    assert counts[1] == 0
    some = probabilities > 0
    assert chi_square(counts[some], draws * probabilities[some]) < 20.5  # 5 degrees of freedom, 99.9 %


def test_neighbouring_samples_are_independent():
    pairs = np.zeros((4, 4))
    for step in range(3000):
        a, b = (int(4 * sampling.uniform(3, sample, step)) for sample in (0, 1))
        pairs[a, b] += 1
    assert chi_square(pairs, np.full((4, 4), 3000 / 16)) < 37.7  # 15 degrees of freedom, 99.9 %


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=16, max_size=16), st.integers(0, 15), st.sampled_from([0.0, 0.5, 0.999]))
def test_choose_inverts_the_cumulative_distribution_in_the_order_of_ids(ids, slot, within):
    probabilities = np.bincount(ids, minlength=10) / 16  # exact in binary: id i owns its count of sixteenths
    assert sampling.choose(probabilities, (slot + within) / 16) == sorted(ids)[slot]


@settings(deadline=None)
@given(LOGITS, st.floats(0, 1, exclude_max=True))
def test_choose_never_takes_a_token_without_probability(logits, u):
    probabilities = distribution(logits, SamplingParams(top_k=2))
    assert probabilities[sampling.choose(probabilities, u)] > 0


def test_largest_uniform_number_takes_the_last_token_with_probability():
    assert sampling.choose(np.array([0.1] * 10 + [0.0]), 1 - 2.0**-53) == 9


@settings(deadline=None)
@given(SEEDS, st.integers(0, 2**64 - 1), st.integers(0, 5), st.integers(0, 1000))
def test_sample_is_choose_over_the_penalised_distribution(logits_seed, seed, sample, step):
    logits = random_logits(logits_seed).astype(np.float32)
    context, written = [1, 2, 3, 2], [3, 2]
    params = SamplingParams(
        temperature=0.8, top_k=20, top_p=0.9, repetition_penalty=1.3, presence_penalty=0.4, no_repeat_ngram=2
    )
    adjusted = penalties.penalise(logits.astype(np.float64), params, context, written, {7})
    expected = sampling.choose(distribution(adjusted, params), sampling.uniform(seed, sample, step))
    got = draw(
        logits, params, context=context, written=written, forbidden={7}, seed=seed, sample_index=sample, step=step
    )
    assert got == expected


# the fast passes over a large vocabulary against float64 all the way


def plainly(logits, params: SamplingParams, context=(), written=(), forbidden=()) -> np.ndarray:
    """Probabilities in the most straightforward way, for temperatures above 0."""
    logits = logits.astype(np.float64)
    if params.repetition_penalty != 1:
        for i in set(context):
            logits[i] = (
                logits[i] / params.repetition_penalty if logits[i] > 0 else logits[i] * params.repetition_penalty
            )
    for i in set(written):
        logits[i] -= params.presence_penalty + params.frequency_penalty * written.count(i)
    n = params.no_repeat_ngram
    grams = [tuple(context[i : i + n]) for i in range(len(context) - n + 1)] if n else []
    repeating = [gram[-1] for gram in grams if gram[:-1] == tuple(context[len(context) - n + 1 :])]
    logits[[i for i in (*params.banned_ids, *forbidden, *repeating) if i < len(logits)]] = -math.inf
    with np.errstate(over="ignore"):
        weights = np.exp((logits - logits.max()) / params.temperature)
    if 0 < params.top_k < len(logits):
        weights[logits < np.sort(logits)[-params.top_k]] = 0
    if 0 < params.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        cumulative = np.cumsum(weights[order])
        weights[order[np.searchsorted(cumulative, params.top_p * cumulative[-1]) + 1 :]] = 0
    weights[weights < params.min_p * weights.max()] = 0
    return weights / weights.sum()


def any_logits(rng: np.random.Generator, size: int) -> np.ndarray:
    """As of random and of trained networks, with ties, with none but a few tokens, and with all the same."""
    kind = rng.integers(6)
    logits = rng.normal(size=size) * rng.choice([0.5, 1, 3, 10]) + rng.normal() * 30
    if kind == 0:  # weights fall with a power of the rank
        logits = rng.permutation(-rng.uniform(1, 4) * np.log(np.arange(1, size + 1))) + rng.normal() * 10
    elif kind == 1:
        logits = np.round(logits * 4) / 4
    elif kind == 2:
        logits[rng.random(size) < 0.999] = -math.inf
        logits[rng.integers(size)] = 1
    elif kind == 3 and rng.random() < 0.2:
        logits[:] = logits[0]
    return logits.astype(np.float32)


def any_params(rng: np.random.Generator, size: int) -> SamplingParams:
    """Every parameter is at work in about half of the cases."""
    given = {
        "temperature": float(rng.choice([10 ** rng.uniform(-2, 2), 0.95, 1e-300, 1e-31, 1e-20, 99, 100])),
        "top_k": int(rng.choice([1, 2, 40, size // 20, size // 2, size - 1, size + 1])),
        "top_p": float(rng.choice([0.9, 0.999, 0.9999999, 1e-6, rng.random(), rng.random()])),
        "min_p": float(rng.choice([0.05, 1, 1e-8, 1e-300, rng.random()])),
        "repetition_penalty": float(rng.choice([1.2, 0.8, 100])),
        "presence_penalty": float(rng.normal()),
        "frequency_penalty": float(rng.normal()),
        "no_repeat_ngram": int(rng.integers(1, 4)),
        "banned_ids": tuple(rng.integers(0, size + 9, size // 20).tolist()),
    }
    kept = rng.random(len(given)) < [0.8, 0.3, 0.5, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2]
    return SamplingParams(**{name: given[name] for name, keep in zip(given, kept, strict=True) if keep})


@pytest.mark.parametrize("size", [50, 1000, 1100, 5000, 30000])
@pytest.mark.parametrize("part", range(2))
def test_tokens_are_those_of_float64_throughout(monkeypatch, size, part):
    """For random numbers, and for numbers so close to the edges of tokens' shares that float32 cannot tell the side."""
    rng = np.random.default_rng([size, part])
    for case in range(40):
        logits, params = any_logits(rng, size), any_params(rng, size)
        context = rng.integers(0, min(size, 300), 200).tolist()
        rest = {"context": context, "written": context[90:], "forbidden": frozenset(rng.integers(0, size, 2).tolist())}
        before = logits.copy()
        adjusted = penalties.penalise(logits, params, **rest)
        if np.isneginf(adjusted).all():
            continue
        probabilities = plainly(logits, params, **rest)
        got = distribution(adjusted, params)
        assert np.array_equal(got > 0, probabilities > 0), (case, params)
        np.testing.assert_allclose(got, probabilities, rtol=1e-11, atol=0)
        edges = np.cumsum(probabilities)
        near = rng.choice(edges[probabilities > 0], 8) + rng.choice([-1, 1], 8) * 10 ** rng.uniform(-9, -4, 8)
        for u in (*rng.random(8), *np.clip(near, 0, 1 - 2**-53)):
            expected = int(np.searchsorted(edges, u * edges[-1], side="right"))
            monkeypatch.setattr(sampling, "uniform", lambda *_, u=float(u): u)
            if np.abs(edges - u).min() > 1e-12:
                assert draw(logits, params, **rest) == expected, (case, params, u)
        assert np.array_equal(logits, before)


@pytest.mark.parametrize("spread", [1, 3, 8])
def test_float32_sums_are_much_closer_than_what_is_allowed_for(spread):
    rng = np.random.default_rng(spread)
    for temperature in (0.3, 0.95, 4):
        logits = (rng.normal(size=30000) * spread).astype(np.float32)
        top = np.float64(logits.max())
        rough = sampling._rough(logits, top, temperature)
        assert rough.dtype == np.float32
        exact = np.exp((logits - top) / temperature)
        for depth in (0, 8, 14):  # of all, and of unlikely tokens alone
            rare = logits < top - depth * temperature
            if rare.any():
                assert rough[rare].sum() == pytest.approx(exact[rare].sum(), rel=sampling.SLACK / 4)


def test_sampling_is_the_same_from_many_threads():
    places = [(seed, sample, step) for seed in range(6) for sample in range(20) for step in range(20)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda place: sampling.uniform(*place), places)) == [sampling.uniform(*p) for p in places]


def test_nan_far_inside_the_vocabulary_is_found():
    for at in np.random.default_rng(0).integers(0, 30000, 50):
        logits = random_logits(1, 30000)
        logits[at] = math.nan
        with pytest.raises(NumericsError, match="NaN"):
            draw(logits, SamplingParams(top_k=3))


# what cannot be


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("at", [0, 2])
def test_nan_among_the_logits_is_a_numerics_error(temperature, at):
    logits = [1.0, 2.0, 3.0]
    logits[at] = math.nan
    with pytest.raises(NumericsError, match="NaN"):
        draw(logits, SamplingParams(temperature=temperature))


def test_nan_is_an_error_even_where_it_is_banned():
    with pytest.raises(NumericsError):
        draw([1.0, math.nan], SamplingParams(banned_ids=(1,)))


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("logits", [[1.0, math.inf], [-math.inf, -math.inf]])
def test_logits_without_a_finite_best_are_a_numerics_error(temperature, logits):
    with pytest.raises(NumericsError):
        draw(logits, SamplingParams(temperature=temperature))


@pytest.mark.parametrize("temperature", [0, 1])
def test_everything_banned_is_a_numerics_error(temperature):
    with pytest.raises(NumericsError, match="banned"):
        draw([1.0, 2.0, 3.0], SamplingParams(temperature=temperature, banned_ids=(0, 1)), forbidden=[2])
    with pytest.raises(NumericsError):
        draw([1.0, 2.0], SamplingParams(temperature=temperature, no_repeat_ngram=1), context=[0, 1])


BAD = [
    *(("temperature", v) for v in (math.nan, math.inf, -math.inf, -0.1)),
    *(("top_k", v) for v in (-1, math.nan, math.inf)),
    *((name, v) for name in ("top_p", "min_p") for v in (-0.1, 1.1, math.nan, math.inf)),
    *(("repetition_penalty", v) for v in (0, -1, math.nan, math.inf)),
    *((name, v) for name in ("presence_penalty", "frequency_penalty") for v in (math.nan, math.inf, -math.inf)),
    ("no_repeat_ngram", -1),
    ("min_new_tokens", -1),
    ("banned_ids", (3, -1)),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_parameters_out_of_range_are_config_errors_that_name_them(name, value):
    with pytest.raises(ConfigError, match=name):
        SamplingParams(**{name: value})
