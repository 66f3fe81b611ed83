"""How varied a text is, by position: distinct n-grams, repeated 4-grams, stretches of low variety. All in characters.

N-grams alone can look human while a text counts on and on, so low variety is measured against human text: a stretch of ``STRETCH``
characters has low variety if its share of distinct bigrams is below that of nearly all (99 %) of the human stretches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

STRETCH = 200  # characters
STEP = 50  # characters between the beginnings of two stretches
PERCENTILE = 1.0  # of human stretches


@dataclass(frozen=True)
class Variety:
    """distinct_1, distinct_2: distinct characters and bigrams, as a share of all. repeated_4: 4-grams that occurred before, as a share
    of all. low_variety: share of stretches, None where the text is shorter than one.
    """

    distinct_1: float
    distinct_2: float
    repeated_4: float
    low_variety: float | None


def distinct(text: str, n: int) -> float:
    """Distinct n-grams of characters as a share of all; 1.0 for a text without any."""
    grams = [text[i : i + n] for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def human_bound(texts: Sequence[str]) -> float | None:
    """The share of distinct bigrams below which a stretch has low variety, from human texts; None without a whole stretch."""
    shares = [share for text in texts for share in _stretches(text)]
    return float(np.percentile(shares, PERCENTILE)) if shares else None


def variety(pieces: Sequence[str], bound: float | None) -> Variety:
    """Means over pieces of text of about the same length; bound: see :func:`human_bound`."""
    low = [share < bound for piece in pieces for share in _stretches(piece)] if bound is not None else []
    return Variety(
        distinct_1=_mean([distinct(piece, 1) for piece in pieces]),
        distinct_2=_mean([distinct(piece, 2) for piece in pieces]),
        repeated_4=_mean([1 - distinct(piece, 4) for piece in pieces]),
        low_variety=_mean(low) if low else None,
    )


def ends_low(text: str, bound: float) -> bool:
    """Whether a text is stuck: its last ``STRETCH`` characters have low variety. False for a shorter text."""
    return len(text) >= STRETCH and distinct(text[-STRETCH:], 2) < bound


def _stretches(text: str) -> list[float]:
    return [distinct(text[at : at + STRETCH], 2) for at in range(0, len(text) - STRETCH + 1, STEP)]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
