"""Penalties and bans, as the ids they touch and what they do to the logits of these: pure functions."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpm_gen.config.options import SamplingParams

Indices = NDArray[np.intp]
Floats = NDArray[np.float64]
AnyFloats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Edits:
    """Ids whose logits penalties and bans touch; one that comes twice comes with the same amount twice.

    repeated: for the repetition penalty. counted: for presence and frequency penalties, which take ``amounts`` from them.
    """

    repeated: Indices
    counted: Indices
    amounts: Floats
    banned: Indices


_NONE = np.empty(0, dtype=np.intp)
_NOTHING = Edits(_NONE, _NONE, _NONE.astype(np.float64), _NONE)


def edits(
    params: SamplingParams, context: Sequence[int], written: Sequence[int], forbidden: Collection[int], size: int
) -> Edits:
    """What is to be done to ``size`` logits; see :func:`penalise`."""
    repeats = params.repetition_penalty != 1.0
    counts = params.presence_penalty != 0 or params.frequency_penalty != 0
    if not (repeats or counts or params.no_repeat_ngram or params.banned_ids or forbidden):
        return _NOTHING
    seen = np.asarray(context if repeats or params.no_repeat_ngram else (), dtype=np.intp)
    counted = np.asarray(written if counts else (), dtype=np.intp)
    amounts = params.presence_penalty + params.frequency_penalty * np.bincount(counted)[counted] if counts else counted
    bans = _below(params.banned_ids, size), _below(tuple(forbidden), size)
    return Edits(
        repeated=seen if repeats else seen[:0],
        counted=counted,
        amounts=amounts.astype(np.float64, copy=False),
        banned=np.concatenate([*bans, ngram_bans(seen, params.no_repeat_ngram)]),
    )


@np.errstate(over="ignore")  # penalties beyond reason end at infinity
def penalise(
    logits: AnyFloats,
    params: SamplingParams,
    context: Sequence[int],
    written: Sequence[int],
    forbidden: Collection[int] = (),
) -> AnyFloats:
    """Logits ``[V]`` after bans and penalties: ``logits`` itself if there are none, float64 if there are penalties.

    context: the tokens in the window; repetition penalty (Keskar et al. 2019) and n-gram bans look at these.
    written: those of them that were generated; presence and frequency penalties look at these.
    forbidden: ids banned at this step besides ``params.banned_ids``.
    """
    todo = edits(params, context, written, forbidden, len(logits))
    penalties = len(todo.repeated) + len(todo.counted) > 0
    if not (penalties or len(todo.banned)):
        return logits
    logits = logits.astype(np.float64 if penalties else logits.dtype)
    # of an id that comes twice, the value is read twice before it is written
    values, penalty = logits[todo.repeated], params.repetition_penalty
    logits[todo.repeated] = np.where(values > 0, values / penalty, values * penalty)
    logits[todo.counted] = logits[todo.counted] - todo.amounts
    logits[todo.banned] = -np.inf
    return logits


@functools.lru_cache(maxsize=64)  # the same at every step, and many if the vocabulary is padded
def _below(ids: tuple[int, ...], size: int) -> Indices:
    return np.array([i for i in ids if i < size], dtype=np.intp)


def ngram_bans(context: Sequence[int] | Indices, n: int) -> Indices:
    """Ids that would complete an ``n``-gram which ``context`` already holds, some perhaps twice; none if ``n`` is 0."""
    tokens = np.asarray(context, dtype=np.intp)
    starts = max(0, len(tokens) - n + 1) if n else 0
    repeats = np.ones(starts, dtype=np.bool_)
    for i in range(n - 1 if starts else 0):
        repeats &= tokens[i : i + starts] == tokens[starts + i]
    return tokens[len(tokens) - starts :][repeats]
