"""Rows that are drawn together against the same rows alone, and against float64 sums over one row at a time."""

import dataclasses
import math
import random
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import SamplingParams
from cpm_gen.errors import NumericsError
from cpm_gen.networks.native import library
from cpm_gen.networks.native.model import NativeModel
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.sampling import penalties, sample
from cpm_gen.sampling.kernels import LogitKernels
from cpm_gen.sampling.rows import MOST, choose_each, draw_rows
from cpm_gen.sampling.sample import FAILURES, Draw
from tests.oracles import distribution

PARAMS = [
    SamplingParams(temperature=0.95, top_k=50, top_p=0.95),
    SamplingParams(temperature=0.95, top_k=50, top_p=0.95, min_p=0.1),
    SamplingParams(temperature=1.7, top_p=0.6),
    SamplingParams(temperature=0.3, top_k=5),
    SamplingParams(temperature=1e-3, min_p=0.2),
    SamplingParams(temperature=2.0, top_k=3, repetition_penalty=1.3, banned_ids=(1, 2, 3)),
    SamplingParams(temperature=0),
    SamplingParams(),
]


def some_rows(seed: int, count: int, size: int) -> NDArray[np.float32]:
    """Logits ``[count, size]``, many of them equal in half of the cases."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, size)) * rng.choice([0.3, 3, 30])
    found: NDArray[np.float32] = (np.round(logits) if seed % 2 else logits).astype(np.float32)
    return found


def some_draw(dice: random.Random, size: int) -> Draw:
    allowed = np.array(sorted(dice.sample(range(size), dice.choice([1, 2, 60, size // 2, size]))))
    bias = np.array([dice.choice([0, -1.5, -32]) for _ in allowed], dtype=np.float32)
    return Draw(
        dice.choice(PARAMS),
        [5, 6, 7],
        [6],
        dice.choice([(), {4, 9}]),
        seed=dice.getrandbits(64),
        sample_index=dice.randrange(4),
        step=dice.randrange(200),
        allowed=dice.choice([None, allowed]),
        bias=dice.choice([None, bias]),
    )


def alone(logits: NDArray[np.float32], draw: Draw) -> int:
    """One draw from one row ``[size]``, over the whole vocabulary."""
    adjusted = penalties.penalise(logits, draw.params, draw.context, draw.written, draw.forbidden)
    if draw.allowed is not None:
        limited = np.full(len(logits), -math.inf)
        raw = adjusted if adjusted[draw.allowed].max() > -math.inf else logits
        limited[draw.allowed] = raw[draw.allowed] if draw.bias is None else raw[draw.allowed] + draw.bias
        adjusted = limited
    return sample.choose(distribution(adjusted, draw.params), draw.uniform())


@settings(deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 9),
    st.integers(2, MOST),
    st.sampled_from([p for p in PARAMS if p.temperature]),
)
def test_a_row_is_drawn_with_others_as_alone(seed: int, count: int, size: int, params: SamplingParams) -> None:
    params = dataclasses.replace(params, top_k=0, repetition_penalty=1.0, banned_ids=())
    logits = some_rows(seed, count, size)
    numbers = np.random.default_rng(seed).random(count)
    together = draw_rows(logits, params, numbers).tolist()
    assert together == [int(draw_rows(logits[i : i + 1], params, numbers[i : i + 1])[0]) for i in range(count)]
    for row, u, token in zip(logits, numbers, together, strict=True):
        ids, weights = sample.remaining(row, sample.best_token(row), params)
        at = sample.choose(weights, u)
        assert token == (at if isinstance(ids, slice) else ids[at])


@pytest.fixture(scope="module")
def native() -> Iterator[LogitKernels]:
    """The native kernels of a small network, which choose from any logits."""
    if message := library.missing():
        pytest.skip(message)
    model = NativeModel(ModelSize(1, 32, 2, 64, 32), TensorParallel(), form="float32", threads=2)
    yield model.logit_kernels  # while the model lives


@pytest.fixture(params=["numpy", "native"])
def kernels(request: pytest.FixtureRequest) -> LogitKernels | None:
    return request.getfixturevalue("native") if request.param == "native" else None


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [70, 700, 9000])
def test_each_choice_is_that_of_its_row_alone(seed: int, size: int, kernels: LogitKernels | None) -> None:
    dice = random.Random(seed)
    draws = [some_draw(dice, size) for _ in range(9)]
    logits = some_rows(seed, len(draws), size)
    chosen = choose_each(logits, draws, range(len(draws)), kernels)
    assert chosen == [draw.choose(row) for row, draw in zip(logits, draws, strict=True)]
    assert chosen == [alone(row, draw) for row, draw in zip(logits, draws, strict=True)]


def test_candidates_share_a_row(kernels: LogitKernels | None) -> None:
    dice = random.Random(3)
    draws = [dataclasses.replace(some_draw(dice, 300), params=params) for params in PARAMS]
    logits = some_rows(2, len(draws), 300)
    each = [dataclasses.replace(draw, candidate=number) for draw in draws for number in range(4)]
    places = [place for place in range(len(draws)) for _ in range(4)]
    assert choose_each(logits, each, places, kernels) == [
        d.choose(logits[p]) for d, p in zip(each, places, strict=True)
    ]
    assert len(set(choose_each(logits, each, places, kernels)[:4])) > 1


def test_an_error_is_that_of_its_row(kernels: LogitKernels | None) -> None:
    draws = [Draw(PARAMS[0], (), (), (), seed=1, sample_index=0, step=step) for step in range(4)]
    logits = some_rows(0, 4, 100)
    logits[1, 70], logits[2, 3] = math.nan, math.inf
    first, nan, infinite, last = choose_each(logits, draws, range(4), kernels)
    assert (first, last) == (draws[0].choose(logits[0]), draws[3].choose(logits[3]))
    assert [str(nan), str(infinite)] == [FAILURES[sample.NAN], FAILURES[sample.INFINITE]]
    with pytest.raises(NumericsError, match="NaN"):
        draws[1].choose(logits[1])


def test_the_kernels_are_used_where_they_can_be(native: LogitKernels) -> None:
    logits = some_rows(0, 2, 300)
    draws = [Draw(PARAMS[0], (), (), (), seed=1, sample_index=0, step=step) for step in range(2)]
    picks = [draw.pick(row, 300, [draw]) for row, draw in enumerate(draws)]
    wanted = [[draw.choose(row)] for row, draw in zip(logits, draws, strict=True)]
    assert native.choose(logits, [pick for pick in picks if pick]) == wanted
    penalty = dataclasses.replace(draws[0], params=PARAMS[5], context=[1])
    assert penalty.pick(0, 300, [penalty]) is None


@pytest.mark.parametrize("size", [1, 7, 64, 1001])
def test_the_kernels_sums_are_those_in_float64(native: LogitKernels, size: int) -> None:
    logits = some_rows(4, 5, size)
    wide = logits.astype(np.float64)
    assert native.log_sums(logits) == pytest.approx(np.logaddexp.reduce(wide, axis=1).tolist(), abs=1e-5)
    assert native.log_sums(logits[2:3]) == native.log_sums(logits)[2:3]
