"""A token for each of several rows of a few logits: :mod:`cpm_gen.sampling.sample`, with one call of numpy for all rows.

A row's numbers have the same bits whatever the other rows are, since each operation works on the rows one by one.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cpm_gen.config.options import SamplingParams
from cpm_gen.errors import NumericsError
from cpm_gen.sampling.kernels import LogitKernels
from cpm_gen.sampling.penalties import AnyFloats, Floats, Indices
from cpm_gen.sampling.sample import FAILURES, NAN, Draw, drawn

MOST = 256  # logits of a row that is drawn together with others


@np.errstate(over="ignore", under="ignore")
def choose_each(
    logits: NDArray[np.float32], draws: Sequence[Draw], places: Sequence[int], kernels: LogitKernels | None = None
) -> list[int | NumericsError]:
    """:func:`~cpm_gen.sampling.sample.sample` for each draw from a row of raw logits ``[rows, V]``, or the error that prevents it.

    places: the row of each draw. Neighbours with the same one differ in their candidates only. kernels: the backend's; the tokens are the
    same without them.
    """
    chosen: list[int | NumericsError] = [0] * len(draws)
    groups = [(place, list(own)) for place, own in itertools.groupby(range(len(draws)), key=places.__getitem__)]
    nan = np.isnan(logits.max(axis=1)).tolist()
    for place, own in groups:
        for at in own if nan[place] else ():
            chosen[at] = NumericsError(FAILURES[NAN])
    groups = [(place, own) for place, own in groups if not nan[place]]
    if kernels is not None:
        groups = _choose_by(kernels, logits, draws, groups, chosen)
    few: dict[tuple[float, ...], list[tuple[int, AnyFloats, Indices | None]]] = {}
    for place, own in groups:
        draw = draws[own[0]]
        try:
            values, ids = draw.narrowed(logits[place])
        except NumericsError as error:
            for at in own:
                chosen[at] = error
            continue
        if 1 < len(values) <= MOST:
            key = len(values), draw.params.temperature, draw.params.top_p, draw.params.min_p
            few.setdefault(key, []).extend((at, values, ids) for at in own)
            continue
        found = [0] * len(own) if len(values) == 1 else drawn(values, draw.params, [draws[at].uniform() for at in own])
        for at, token in zip(own, found, strict=True):
            chosen[at] = token if ids is None else int(ids[token])
    for members in few.values():
        first, values, _ = members[0]
        params, numbers = draws[first].params, [draws[at].uniform() for at, *_ in members]
        if len(members) == 1:  # by itself it is quicker
            found = drawn(values, params, numbers)
        else:
            found = draw_rows(np.array([values for _, values, _ in members]), params, np.array(numbers)).tolist()
        for (at, _, ids), token in zip(members, found, strict=True):
            chosen[at] = token if ids is None else int(ids[token])
    return chosen


_Groups = list[tuple[int, list[int]]]  # a row of logits, and the places of the draws from it


def _choose_by(
    kernels: LogitKernels,
    logits: NDArray[np.float32],
    draws: Sequence[Draw],
    groups: _Groups,
    chosen: list[int | NumericsError],
) -> _Groups:
    """Choose by the kernels what they can; returns the groups that are left."""
    left: _Groups = []
    picks, picked = [], []
    for place, own in groups:
        pick = draws[own[0]].pick(place, logits.shape[1], [draws[at] for at in own])
        if pick is None:
            left.append((place, own))
        else:
            picks.append(pick)
            picked.append((place, own))
    for (place, own), tokens in zip(picked, kernels.choose(logits, picks) if picks else (), strict=True):
        if tokens[0] < 0:
            left.append((place, own))
            continue
        for at, token in zip(own, tokens, strict=True):
            chosen[at] = token
    return left


def draw_rows(logits: AnyFloats, params: SamplingParams, numbers: AnyFloats) -> Indices:
    """The places of the tokens at ``numbers`` ``[rows]`` in the distributions of ``logits`` ``[rows, n]``, after top-p and min-p.

    The best logit of each row is finite, ``params.temperature`` is above 0, and top-k has been applied.
    """
    wide = logits.astype(np.float64)
    weights: Floats = np.exp((wide - wide.max(axis=1, keepdims=True)) / params.temperature)
    if 0 < params.top_p < 1:
        _keep_heaviest(weights, params.top_p)
    if params.min_p > 0:
        weights[weights < params.min_p] = 0.0  # the best one's weight is 1
    ends = weights.cumsum(axis=1)
    total = ends[:, -1:]
    # the first end above the goal; if rounding leaves none, the last that adds something
    above = (ends <= numbers[:, None] * total).sum(axis=1)
    found: Indices = np.minimum(above, (ends < total).sum(axis=1))
    return found


def _keep_heaviest(weights: Floats, top_p: float) -> None:
    """Zero all but the fewest weights of each row, of equal ones the first, that hold ``top_p`` of its whole."""
    goal = top_p * weights.sum(axis=1, keepdims=True)
    ordered = np.sort(weights, axis=1)[:, ::-1]
    below = (ordered.cumsum(axis=1) < goal).sum(axis=1)
    last = np.minimum(below, weights.shape[1] - 1)  # the place of the least that is kept
    least = ordered[np.arange(len(ordered)), last]
    kept = weights >= least[:, None]
    surplus = kept.sum(axis=1) - (last + 1)
    for row in surplus.nonzero()[0]:
        kept[row, np.flatnonzero(weights[row] == least[row])[-surplus[row] :]] = False
    weights *= kept
