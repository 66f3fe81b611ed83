"""From logits to a token: pure functions of (logits, parameters, history, seed, step).

Order of operations, as in Hugging Face and vLLM: bans and penalties, temperature, top-k, top-p, min-p, then one uniform number
through the inverse CDF of what is left, tokens in the order of their ids. The number comes from Philox 4x64 (Salmon et
al. 2011), a counter-based generator keyed by (seed, sample), its counter the step: token ``step`` of sample ``i`` needs no
earlier draw, so a generation can be resumed anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cpm_gen.config import SamplingParams
from cpm_gen.errors import NumericsError

Floats = NDArray[np.float64]


def uniform(seed: int, sample: int, step: int) -> float:
    """A number in [0, 1) that depends on its arguments alone; 53 random bits."""
    key = np.array([seed, sample], dtype=np.uint64)
    bits = np.random.Philox(counter=step, key=key).random_raw()
    return float((int(bits) >> 11) * 2.0**-53)


def penalise(
    logits: Floats,
    params: SamplingParams,
    context: Sequence[int],
    written: Sequence[int],
    forbidden: Iterable[int] = (),
) -> Floats:
    """Logits ``[V]`` after bans and penalties.

    context: the tokens in the window; repetition penalty (Keskar et al. 2019) and n-gram bans look at these.
    written: those of them that were generated; presence and frequency penalties look at these.
    forbidden: ids banned at this step besides ``params.banned_ids``.
    """
    logits = logits.copy()
    with np.errstate(over="ignore"):  # penalties beyond reason end at infinity
        _penalise_seen(logits, params, context, written)
    banned = [*params.banned_ids, *forbidden]
    if params.no_repeat_ngram:
        banned += ngram_bans(context, params.no_repeat_ngram)
    banned = [i for i in banned if i < len(logits)]
    if banned:
        logits[banned] = -np.inf
    return logits


def _penalise_seen(logits: Floats, params: SamplingParams, context: Sequence[int], written: Sequence[int]) -> None:
    if params.repetition_penalty != 1.0 and context:
        seen = np.unique(np.asarray(context))
        values = logits[seen]
        logits[seen] = np.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    if (params.presence_penalty or params.frequency_penalty) and written:
        seen, counts = np.unique(np.asarray(written), return_counts=True)
        logits[seen] -= params.presence_penalty + params.frequency_penalty * counts


def ngram_bans(context: Sequence[int], n: int) -> list[int]:
    """Ids that would complete an ``n``-gram which ``context`` already holds."""
    if len(context) < n:
        return []
    tail = list(context[len(context) - n + 1 :])
    return [context[i + n - 1] for i in range(len(context) - n + 1) if list(context[i : i + n - 1]) == tail]


def distribution(logits: Floats, params: SamplingParams) -> Floats:
    """Probabilities ``[V]`` after temperature, top-k, top-p and min-p; they sum to 1.

    Ties with the k-th token stay, as in the original and Hugging Face. ``temperature`` 0 puts all on the best token (the
    lowest id among equals).
    """
    best = int(np.argmax(logits))
    if logits[best] == -np.inf:
        raise NumericsError("no token can be chosen: all are banned")
    if not np.isfinite(logits[best]):
        raise NumericsError("no token can be chosen: the logits are NaN or infinite (if in float16, try bfloat16)")
    if params.temperature == 0:
        result = np.zeros_like(logits)
        result[best] = 1.0
        return result
    with np.errstate(under="ignore", over="ignore"):
        scaled = (logits - logits[best]) / params.temperature
        scaled[best] = 0.0  # 0 / tiny is 0; guards temperatures that overflow the division
        probabilities: Floats = np.exp(scaled)
    if 0 < params.top_k < len(logits):
        kth = np.partition(logits, -params.top_k)[-params.top_k]
        probabilities[logits < kth] = 0.0
    if 0 < params.top_p < 1:
        candidates = np.flatnonzero(probabilities)
        order = candidates[np.argsort(-probabilities[candidates], kind="stable")]
        cumulative = np.cumsum(probabilities[order])
        reached = int(np.searchsorted(cumulative, params.top_p * cumulative[-1]))
        probabilities[order[reached + 1 :]] = 0.0
    if params.min_p > 0:
        probabilities[probabilities < params.min_p * probabilities.max()] = 0.0
    probabilities /= probabilities.sum()
    return probabilities


def choose(probabilities: Floats, u: float) -> int:
    """The token at ``u`` in the cumulative distribution, ids in ascending order."""
    candidates = np.flatnonzero(probabilities)
    cumulative = np.cumsum(probabilities[candidates])
    at = int(np.searchsorted(cumulative, u * cumulative[-1], side="right"))
    return int(candidates[min(at, len(candidates) - 1)])


def sample(
    logits: NDArray[np.float32],
    params: SamplingParams,
    *,
    context: Sequence[int],
    written: Sequence[int],
    forbidden: Iterable[int],
    seed: int,
    sample_index: int,
    step: int,
) -> int:
    """The next token id from raw logits ``[V]``; see the module for the order of operations."""
    raw = logits.astype(np.float64)
    if np.isnan(raw).any():
        raise NumericsError("the network's logits are NaN: the checkpoint is damaged, or float16 overflowed")
    adjusted = penalise(raw, params, context, written, forbidden)
    return choose(distribution(adjusted, params), uniform(seed, sample_index, step))
