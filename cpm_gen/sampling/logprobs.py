"""Natural log-probabilities of a token and of the most probable ones, from raw logits: before penalties, temperature and filters.

And the perplexity of a text, from the log-probabilities of its tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cpm_gen.sampling.kernels import LogitKernels

if TYPE_CHECKING:
    from torch import Tensor

TopTokens = tuple[tuple[int, float], ...]  # ids and log-probabilities, best first (the lower id among equals)


@dataclass(frozen=True)
class Likelihood:
    """Log-probability of a token, and those of the most probable ones in its place."""

    token: int
    logprob: float
    top: TopTokens


@dataclass
class TopCollector:
    """Collects the ``count`` most probable tokens of each place while a text is scored; ``found`` has one entry for each place."""

    count: int
    found: list[TopTokens] = field(default_factory=list)

    def add(self, logits: Tensor, totals: Tensor) -> None:
        """Append the next places: their logits ``[places, V]`` and the logarithm of the sum of their exponentials ``[places]``."""
        values, ids = logits.topk(min(self.count, logits.shape[1]))
        logprobs = (values - totals[:, None]).tolist()
        for row in zip(ids.tolist(), logprobs, strict=True):
            self.found.append(tuple(sorted(zip(*row, strict=True), key=lambda entry: (-entry[1], entry[0]))))


def perplexity(logprobs: Sequence[float | None]) -> float | None:
    """The exponential of the mean negative log-probability; None entries (the first token) do not count.

    None for fewer than two tokens, and where the number is too large for a float.
    """
    known = [p for p in logprobs if p is not None]
    if not known:
        return None
    try:
        value = math.exp(-sum(known) / len(known))
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def likelihood(logits: NDArray[np.float32], token: int, count: int) -> Likelihood:
    """The log-probability of ``token`` under ``logits`` ``[V]``, and those of the ``count`` most probable tokens."""
    raw = logits.astype(np.float64)
    best = float(raw.max())
    total = best + float(np.log(np.exp(raw - best).sum()))
    count = min(count, len(raw))
    # all that tie with the last one, so that equals stand in the order of their ids
    candidates = np.flatnonzero(raw >= np.partition(raw, -count)[-count]) if count else np.empty(0, dtype=np.int64)
    order = candidates[np.argsort(-raw[candidates], kind="stable")][:count]
    return Likelihood(token, float(raw[token]) - total, tuple((int(i), float(raw[i]) - total) for i in order))


def logprobs_of(
    logits: Tensor, rows: Sequence[int], tokens: Sequence[int], kernels: LogitKernels | None = None
) -> list[float]:
    """Natural log-probability of each token under a row of raw logits ``[rows, V]``. rows: of each token; a row may come often.

    kernels: the backend's, for logits on the host.
    """
    if logits.device.type == "cpu":  # what torch computes on several threads disturbs the native kernels
        return _on_host(logits.numpy(), rows, tokens, kernels)
    return on_device(logits, rows, tokens)


def on_device(logits: Tensor, rows: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """:func:`logprobs_of` in torch; synchronises with the device once."""
    totals = logits.double().logsumexp(1)
    at = list(rows)
    found: list[float] = (logits[at, list(tokens)].double() - totals[at]).tolist()
    return found


def _on_host(
    values: NDArray[np.float32], rows: Sequence[int], tokens: Sequence[int], kernels: LogitKernels | None
) -> list[float]:
    own = list(dict.fromkeys(rows))
    chosen = values if own == list(range(len(values))) else values[own]
    totals = dict(zip(own, _log_sums(chosen) if kernels is None else kernels.log_sums(chosen), strict=True))
    return [float(values[row, token]) - totals[row] for row, token in zip(rows, tokens, strict=True)]


def _log_sums(logits: NDArray[np.float32]) -> list[float]:
    best = logits.max(1)
    weights = logits - best[:, None]
    np.exp(weights, out=weights)
    found: list[float] = (best + np.log(weights.sum(1))).tolist()
    return found
