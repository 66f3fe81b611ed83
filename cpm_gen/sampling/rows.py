"""A token for each of several rows of a few logits: :mod:`cpm_gen.sampling.sample`, with one call of numpy for all rows.

A row's numbers have the same bits whatever the other rows are, since each operation works on the rows one by one.
"""

from __future__ import annotations

import numpy as np

from cpm_gen.config.options import SamplingParams
from cpm_gen.sampling.penalties import AnyFloats, Floats, Indices

MOST = 256  # logits of a row


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
