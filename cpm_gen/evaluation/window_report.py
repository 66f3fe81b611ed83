"""What the scores of several methods say: perplexity by position, against a hop of 1, and around slides."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpm_gen.evaluation.confidence import LEVEL, Figure, Floats, bootstrap
from cpm_gen.evaluation.variety import Variety
from cpm_gen.evaluation.windows import Scores
from cpm_gen.sampling.logprobs import perplexity

BIN = 1000  # tokens of a column
LAST = 8  # one column holds all positions from this many thousands on
EDGE = 32  # tokens after a slide, and in the middle between two slides
PIECE = 250  # tokens that confidence intervals draw together, as neighbours are not independent

Mask = NDArray[np.bool_]


def columns(length: int) -> list[tuple[str, int, int]]:
    """(name, first token, end) of each column of the tables: 0-1k, 1-2k, … 8k+."""
    found = []
    for k in range(min(LAST, -(-length // BIN))):
        found.append((f"{k}-{k + 1}k", k * BIN, min((k + 1) * BIN, length)))
    if length > LAST * BIN:
        found.append((f"{LAST}k+", LAST * BIN, length))
    return found


@dataclass(frozen=True)
class MethodReport:
    """A method's figures.

    by_position: perplexity by column. past: of all tokens past the first window. against_hop_1: its perplexity there divided by that of
    a hop of 1, less one. after_slide, mid_window: perplexity of the tokens just after a slide, and in the middle between two;
    ``*_against_hop_1``: divided by that of a hop of 1 on the same tokens, less one. None: not measured or not defined.
    """

    name: str
    by_position: dict[str, float | None]
    past: float | None
    against_hop_1: Figure | None = None
    after_slide: float | None = None
    mid_window: float | None = None
    after_slide_against_hop_1: Figure | None = None
    mid_window_against_hop_1: Figure | None = None


@dataclass(frozen=True)
class WindowReport:
    """All of ``eval-window``.

    texts, length: number of texts, and tokens of each. tokens_compared: tokens past the first window that all methods scored.
    generated: of human texts and of texts that the model wrote, by method and column. seed: of intervals and of the writing.
    """

    model: str
    texts: int
    length: int
    window_limit: int
    tokens_compared: int
    seed: int
    methods: tuple[MethodReport, ...]
    generated: tuple[tuple[str, dict[str, Variety]], ...] = ()
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain data; see docs/quality.md for the fields."""
        return {
            "model": self.model,
            "texts": self.texts,
            "length": self.length,
            "window_limit": self.window_limit,
            "tokens_compared": self.tokens_compared,
            "confidence": LEVEL,
            "seed": self.seed,
            "methods": [{name: _plain(value) for name, value in vars(m).items()} for m in self.methods],
            "generated": [{"name": n, "by_position": {k: vars(v) for k, v in b.items()}} for n, b in self.generated],
            "interrupted": self.interrupted,
        }


def report_methods(scores: Sequence[Scores], limit: int, seed: int) -> tuple[tuple[MethodReport, ...], int]:
    """Reports of methods scored on the same texts, on the tokens that all of them scored; and the number of these past the window."""
    common = np.logical_and.reduce([~np.isnan(s.nats) for s in scores])
    past = common.copy()
    past[:, : limit + 1] = False
    standard = next(
        (s for s in scores if s.method.window and s.method.window.hop == 1 and not s.method.window.keep), None
    )
    return tuple(_report(s, standard, common, past, seed) for s in scores), int(past.sum())


def _report(scores: Scores, standard: Scores | None, common: Mask, past: Mask, seed: int) -> MethodReport:
    nats, window = scores.nats, scores.method.window
    names = columns(nats.shape[1])
    by_position = {name: _perplexity(nats[:, a:b], common[:, a:b]) for name, a, b in names}
    report = MethodReport(scores.method.name, by_position, _perplexity(nats, past))
    if standard is scores:
        return report
    found: dict[str, Any] = {}
    if standard is not None:
        found["against_hop_1"] = _against(nats, standard.nats, past, seed)
    if window is not None and window.hop >= 2 * EDGE:
        since, middle = scores.since_slide, window.hop // 2
        places = {
            "after_slide": (since >= 0) & (since < EDGE),
            "mid_window": (since >= middle) & (since < middle + EDGE),
        }
        for name, place in places.items():
            found[name] = _perplexity(nats, place & ~np.isnan(nats))
            if standard is not None:
                found[f"{name}_against_hop_1"] = _against(nats, standard.nats, place & common, seed)
    return dataclasses.replace(report, **found)


def _perplexity(nats: Floats, mask: Mask) -> float | None:
    return perplexity([-float(nats[mask].mean())]) if mask.any() else None


def _against(nats: Floats, standard: Floats, mask: Mask, seed: int) -> Figure | None:
    """Relative change of the perplexity, with an interval over pieces of the texts."""
    if not mask.any():
        return None
    change = np.where(mask, nats - standard, 0.0)
    pieces = np.arange(0, nats.shape[1], PIECE)
    counts = np.stack(
        [np.add.reduceat(mask.astype(np.float64), pieces, axis=1), np.add.reduceat(change, pieces, axis=1)], axis=-1
    ).reshape(-1, 2)
    counts = counts[counts[:, 0] > 0]
    found = bootstrap(counts, _ratio, seed)
    return Figure.of(float(_ratio(counts.sum(0, keepdims=True))[0, 0]), found[0] if found else None)


def _ratio(sums: Floats) -> Floats:
    with np.errstate(over="ignore"):
        changes: Floats = np.expm1(sums[:, 1:] / sums[:, :1])
    return changes


def _plain(value: object) -> object:
    return value.to_json() if isinstance(value, Figure) else value
