"""From logits to a token: pure functions of (logits, parameters, history, seed, step).

Order of operations, as in Hugging Face and vLLM: bans and penalties, temperature, top-k, top-p, min-p, then one uniform number
through the inverse CDF of what is left, tokens in the order of their ids. The number comes from Philox 4x64 (Salmon et
al. 2011), a counter-based generator keyed by (seed, sample), its counter the step and the candidate: token ``step`` of sample ``i``
needs no earlier draw, so a generation can be resumed anywhere. Candidate 0 has the numbers of a text without candidates.

A token's weight is exp((logit - best) / temperature) in float64, computed if passes over the vocabulary in float32 do not decide.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpm_gen.config.options import SamplingParams
from cpm_gen.errors import NumericsError
from cpm_gen.sampling.constraints import Floats32
from cpm_gen.sampling.dry import SuffixMatches
from cpm_gen.sampling.kernels import Pick
from cpm_gen.sampling.penalties import (
    AnyFloats,
    Edits,
    Floats,
    Indices,
    changes_logits,
    edits,
    penalise,
    penalised_among,
)

Ids = Indices | slice

# Float32 sums of weights are off by less than this share of them: 3 roundings of the exponent x, 2**-24 * |x| each, where the mean
# |x| of V tokens that weigh r (the best one weighs 1) is at most log(V / r); 2.5 ulp of numpy's exp; 27 roundings of a pairwise
# sum. That is 5e-6 for a vocabulary of a million, and twice that for the quotient of two sums.
SLACK = 1e-5
BLOCK = 256  # tokens whose weights are summed first, to find where the CDF crosses
WHOLE = 16  # top-k looks through that many sets of logits at once
FEW = 1024  # tokens that need no first pass in float32
DEPTHS = (8.0, 14.0, math.inf)  # top-p looks for its tokens so far below the best, in units of the exponent
NAN, BANNED, INFINITE = -1, -2, -3  # why there is no token, where tokens are integers
FAILURES = {
    NAN: "the network's logits are NaN: the checkpoint is damaged, or float16 overflowed",
    BANNED: "no token can be chosen: all are banned",
    INFINITE: "no token can be chosen: the logits are NaN or infinite (if in float16, try bfloat16)",
}
_philox = np.random.Philox(0)  # one for all: a new one would first ask the system for a seed
_state: Any = _philox.state
_key, _counter = np.zeros(2, np.uint64), np.zeros(4, np.uint64)
_state["state"] = {"key": _key, "counter": _counter}
_lock = threading.Lock()


def uniform(seed: int, sample: int, step: int, candidate: int = 0) -> float:
    """A number in [0, 1) with 53 random bits, a function of its arguments alone."""
    with _lock:
        _key[0], _key[1], _counter[0], _counter[1] = seed, sample, step, candidate
        _philox.state = _state
        bits = _philox.random_raw()
    return float((int(bits) >> 11) * 2.0**-53)


def best_token(logits: AnyFloats) -> int:
    """The most probable token, the lowest id among equals; raises NumericsError if there is none."""
    best = int(logits.argmax())  # the first NaN, if there is one
    if math.isfinite(logits[best]):
        return best
    if logits[best] == -math.inf:
        raise NumericsError(FAILURES[BANNED])
    raise NumericsError(FAILURES[INFINITE])


def remaining(logits: AnyFloats, best: int, params: SamplingParams) -> tuple[Ids, Floats]:
    """The ids that the filters keep, ascending, and their weights; dropped tokens may be among them with weight 0."""
    top, temperature, min_p = np.float64(logits[best]), params.temperature, params.min_p
    if temperature == 0:
        return np.array([best]), np.ones(1)
    ids: Ids = slice(None)
    if 0 < params.top_k < len(logits):
        ids = _top_k(logits, params.top_k)
    elif min_p > 0 and params.top_p in (0, 1):
        ids = _near(logits, top, temperature * (1 - math.log(min_p)))
    if 0 < params.top_p < 1:
        kept, weights = _top_p(logits[ids], top, temperature, params.top_p)
        ids = kept if isinstance(ids, slice) else ids[kept]
    else:
        weights = _weights(logits[ids], top, temperature)
    if min_p > 0:
        weights[weights < min_p] = 0.0  # the best one's weight is 1
    return ids, weights


def _weights(logits: AnyFloats, top: np.float64, temperature: float) -> Floats:
    weights: Floats = np.exp((logits.astype(np.float64) - top) / temperature)
    return weights


def _rough(logits: AnyFloats, top: np.float64, temperature: float) -> AnyFloats:
    """Weights whose sums have a relative error below ``SLACK``, in a third of the time if float32 can hold 1 / temperature."""
    if len(logits) <= FEW or not 1e-30 < temperature < 1e30:
        return _weights(logits, top, temperature)
    rough = (logits - logits.dtype.type(top)).astype(np.float32, copy=False)
    if temperature != 1:
        rough *= np.float32(1 / temperature)
    return np.exp(rough, out=rough)


def _near(logits: AnyFloats, top: np.float64, depth: float) -> Ids:
    """Ids of logits at most ``depth`` below the best one, and possibly others; all ids if those are many."""
    kind = logits.dtype.type
    near = logits >= np.nextafter(kind(top - depth), kind(-np.inf))
    return slice(None) if 4 * np.count_nonzero(near) > len(near) else near.nonzero()[0]


def _top_k(logits: AnyFloats, k: int) -> Indices:
    """Ids of logits not below the k-th greatest.

    Of many logits, it is at least the k-th greatest of the maxima of disjoint sets, which is found more quickly.
    """
    sets = max(256, 4 * k)
    rows = len(logits) // sets
    if rows <= WHOLE:
        whole: Indices = (logits >= np.partition(logits, -k)[-k]).nonzero()[0]
        return whole
    bound = np.partition(logits[: rows * sets].reshape(rows, sets).max(axis=0), -k)[-k]
    ids = (logits >= bound).nonzero()[0]
    best: Indices = ids[logits[ids] >= np.partition(logits[ids], -k)[-k]]
    return best


def _top_p(logits: AnyFloats, top: np.float64, temperature: float, top_p: float) -> tuple[Ids, Floats]:
    """The fewest tokens that hold ``top_p`` of the whole weight, as :func:`remaining` returns them."""
    if len(logits) <= FEW:
        weights = _weights(logits, top, temperature)
        goal = top_p * float(weights.sum())
        _keep_heaviest(weights, goal, goal)
        return slice(None), weights
    rough = _rough(logits, top, temperature)
    for depth in DEPTHS:
        ids = _near(logits, top, depth * temperature)
        weights = _weights(logits[ids], top, temperature)
        rough[ids] = 0.0
        own, rest = float(weights.sum()), float(rough.sum())
        low, high = top_p * (own + rest * (1 - SLACK)), top_p * (own + rest * (1 + SLACK))
        if own >= high and _keep_heaviest(weights, low, high):
            break
    return ids, weights  # at the last depth all are there, and nothing is left to doubt


def _keep_heaviest(weights: Floats, low: float, high: float) -> bool:
    """Zero all but the greatest weights, of equal ones the first, that reach a sum of ``low`` or of ``high``; False if these differ.

    Halves the range that holds the last of them until sorting it is cheap.
    """
    rest, above, count = weights, 0.0, 0
    while len(rest) > FEW:
        half = len(rest) // 2
        rest = np.partition(rest, half)
        mass = above + float(rest[half:].sum())
        if low <= mass < high:
            return False
        upper = mass >= high
        rest, above, count = (rest[half:], above, count) if upper else (rest[:half], mass, count + len(rest) - half)
    rest = np.sort(rest)[::-1]
    sums = rest.cumsum() + above
    at = min(int(sums.searchsorted(low)), len(rest) - 1)
    if sums[at] < high and at < len(rest) - 1:
        return False
    kept = weights >= rest[at]
    surplus = np.count_nonzero(kept) - (count + at + 1)
    if surplus > 0:
        kept[np.flatnonzero(weights == rest[at])[-surplus:]] = False
    weights *= kept
    return True


def choose(probabilities: AnyFloats, u: float) -> int:
    """The token at ``u`` in the cumulative distribution, ids in ascending order; probabilities may have any sum."""
    return _invert(probabilities, u)[0]


def _invert(weights: AnyFloats, u: float) -> tuple[int, float]:
    """The token at ``u``, and how far ``u`` is from the edges of its share of the whole."""
    if len(weights) <= BLOCK:
        ends = weights.cumsum(dtype=np.float64)
        return _crossed(ends, u * ends[-1], ends[-1])
    blocks = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK)).cumsum(dtype=np.float64)
    goal = u * blocks[-1]
    # the first end above the goal; if rounding leaves none, the last that adds something
    block = int(min(blocks.searchsorted(goal, side="right"), blocks.searchsorted(blocks[-1])))
    goal -= blocks[block - 1] if block else 0.0
    at, margin = _crossed(weights[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64), goal, blocks[-1])
    return block * BLOCK + at, margin


def _crossed(ends: Floats, goal: np.float64, total: np.float64) -> tuple[int, float]:
    """The place of the first cumulative weight above ``goal``, and how far the goal is from the edges, as a share of ``total``."""
    at = int(min(ends.searchsorted(goal, side="right"), ends.searchsorted(ends[-1])))
    return at, float(min(goal - (ends[at - 1] if at else 0.0), ends[at] - goal) / total)


@dataclass(frozen=True)
class Draw:
    """What the choice of one token depends on besides the logits; see :func:`sample`."""

    params: SamplingParams
    context: Sequence[int]
    written: Sequence[int]
    forbidden: Collection[int]
    seed: int
    sample_index: int
    step: int
    history: Sequence[int] | SuffixMatches = ()
    allowed: Indices | None = None
    bias: Floats32 | None = None
    candidate: int = 0

    def edits(self, size: int) -> Edits:
        """The effect of penalties and bans on ``size`` logits."""
        return edits(self.params, self.context, self.written, self.forbidden, size, self.history)

    def with_candidate(self, candidate: int) -> Draw:
        """The same draw of another candidate."""
        other = object.__new__(Draw)  # dataclasses.replace takes ten times as long
        other.__dict__.update(self.__dict__, candidate=candidate)
        return other

    def pick(self, row: int, size: int, candidates: Sequence[Draw]) -> Pick | None:
        """How :class:`~cpm_gen.sampling.kernels.LogitKernels` draw the candidates, this one among them, from a row of ``size`` logits.

        None: not by them, because there are penalties, top-k keeps all or the temperature is 0.
        """
        count = size if self.allowed is None else len(self.allowed)
        if self.params.temperature == 0 or not 0 < self.params.top_k < count or changes_logits(self.params):
            return None
        bias, banned = None if self.allowed is None else self.bias, self.edits(size).banned
        return Pick(row, self.params, self.allowed, bias, banned, [draw.uniform() for draw in candidates])

    def uniform(self) -> float:
        """The uniform number of this draw."""
        return uniform(self.seed, self.sample_index, self.step, self.candidate)

    @np.errstate(over="ignore", under="ignore")
    def choose(self, logits: NDArray[np.float32]) -> int:
        """:func:`sample` from these logits ``[V]``."""
        if math.isnan(logits.max()):
            raise NumericsError(FAILURES[NAN])
        values, ids = self.narrowed(logits)
        [token] = [0] if len(values) == 1 else drawn(values, self.params, [self.uniform()])
        return token if ids is None else int(ids[token])

    def narrowed(self, logits: NDArray[np.float32]) -> tuple[AnyFloats, Indices | None]:
        """The logits that the draw is among, after bans, penalties, bias and top-k, and their ids; None: of all ids.

        One that certainly comes is alone. Raises NumericsError if no token can be chosen.
        """
        if self.allowed is None:
            values = penalise(logits, self.params, self.context, self.written, self.forbidden, self.history)
        else:
            values = penalised_among(logits, self.edits(len(logits)), self.params, self.allowed)
            if values[values.argmax()] == -math.inf:
                values = logits[self.allowed]
            if self.bias is not None:
                values = values + self.bias
        best = best_token(values)
        if self.params.temperature == 0:
            kept = np.array([best])
        elif 0 < self.params.top_k < len(values):
            kept = _top_k(values, self.params.top_k)
        else:
            return values, self.allowed
        return values[kept], kept if self.allowed is None else self.allowed[kept]


def sample(
    logits: NDArray[np.float32],
    params: SamplingParams,
    *,
    context: Sequence[int],
    written: Sequence[int],
    forbidden: Collection[int],
    seed: int,
    sample_index: int,
    step: int,
    history: Sequence[int] | SuffixMatches = (),
    allowed: Indices | None = None,
    bias: Floats32 | None = None,
    candidate: int = 0,
) -> int:
    """The next token id from raw logits ``[V]``, which stay as they are; see the module for the order of operations.

    allowed: the only ids that may come, ascending; None: all. Where penalties and bans leave none of them, these do not count.
    bias: added to the logits of the allowed ids, after penalties and before the temperature.

    Raises NumericsError if a logit is NaN, if the best one is infinite, or if all are banned.
    """
    draw = Draw(params, context, written, forbidden, seed, sample_index, step, history, allowed, bias, candidate)
    return draw.choose(logits)


def drawn(adjusted: AnyFloats, params: SamplingParams, numbers: Sequence[float]) -> list[int]:
    """Indices among logits after penalties, one for each number; for temperatures above 0."""
    best = best_token(adjusted)
    if params.top_k == 0 and params.top_p in (0, 1) and params.min_p == 0:
        rough = _rough(adjusted, np.float64(adjusted[best]), params.temperature)
        found = [_invert(rough, u) for u in numbers]
        if all(margin > SLACK for _, margin in found):
            return [token for token, _ in found]
    ids, weights = remaining(adjusted, best, params)
    tokens = [choose(weights, u) for u in numbers]
    return tokens if isinstance(ids, slice) else [int(ids[token]) for token in tokens]
