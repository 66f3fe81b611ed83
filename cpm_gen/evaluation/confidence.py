"""Confidence intervals by bootstrap: documents are drawn with replacement, and the figure is computed of each draw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.95
RESAMPLES = 1000


def bootstrap(counts: Floats, figures: Callable[[Floats], Floats], seed: int) -> list[Interval] | None:
    """Percentile intervals of figures that depend on sums over documents; None for fewer than two documents.

    counts: ``[documents, k]``. figures: sums ``[draws, k]`` to figures ``[draws, m]``. Two models' counts of the same documents side
    by side give paired intervals: a draw takes a document of both.
    """
    documents = len(counts)
    if documents < 2:
        return None
    random = np.random.default_rng(seed)
    sums = np.stack([counts[random.integers(documents, size=documents)].sum(0) for _ in range(RESAMPLES)])
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(figures(sums), [tail, 100 - tail], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))
