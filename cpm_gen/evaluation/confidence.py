"""Confidence intervals by bootstrap: documents are drawn with replacement, and the figure is computed of each draw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interval = tuple[float, float]

LEVEL = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class Figure:
    """A measured number and its confidence interval, None where fewer than two documents were scored.

    What is not finite, such as a perplexity that is too large for a float, is None.
    """

    value: float | None
    interval: tuple[float | None, float | None] | None

    @classmethod
    def of(cls, value: float, interval: Interval | None, change: Callable[[float], float | None] = float) -> Self:
        """The figure of a value and its interval after ``change``, which must be monotonic."""
        ends = interval and (_finite(change(interval[0])), _finite(change(interval[1])))
        return cls(_finite(change(value)), ends)

    def to_json(self) -> dict[str, Any]:
        """As plain data; None stands for what is not finite, which JSON has no word for."""
        return {"value": self.value, "interval": self.interval}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


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
    with np.errstate(invalid="ignore"):  # between two infinite ones
        low, high = np.percentile(figures(sums), [tail, 100 - tail], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))
