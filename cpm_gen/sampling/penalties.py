"""Penalties and bans, as the ids they touch and what they do to their logits: pure functions."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cpm_gen.config.logit_bias import biases
from cpm_gen.config.options import SamplingParams
from cpm_gen.sampling.dry import SuffixMatches, dry_penalties

Indices = NDArray[np.intp]
Floats = NDArray[np.float64]
AnyFloats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Edits:
    """What penalties and bans do to the logits ``[V]`` of one row.

    repeated: ids for the repetition penalty.
    subtracted: ids and the amounts to subtract from their logits, one pair after the other. An id that occurs twice in a pair
        has the same amount twice, which counts once.
    banned: ids that must not come next.
    """

    repeated: Indices
    subtracted: tuple[tuple[Indices, Floats], ...]
    banned: Indices


_NONE = np.empty(0, dtype=np.intp)


def changes_logits(params: SamplingParams) -> bool:
    """Whether there are penalties or biases; bans alone leave the other logits as they are."""
    counts = params.presence_penalty != 0 or params.frequency_penalty != 0
    return bool(params.repetition_penalty != 1.0 or counts or params.dry_multiplier or params.logit_bias)


def edits(
    params: SamplingParams,
    context: Sequence[int],
    written: Sequence[int],
    forbidden: Collection[int],
    size: int,
    history: Sequence[int] | SuffixMatches = (),
) -> Edits:
    """What to do to ``size`` logits; see :func:`penalise`."""
    repeats = params.repetition_penalty != 1.0
    counts = params.presence_penalty != 0 or params.frequency_penalty != 0
    dry = params.dry_multiplier != 0
    if not (repeats or counts or dry or params.logit_bias or params.no_repeat_ngram or forbidden):
        return _banned(params.banned_ids, size)
    seen = np.asarray(context, dtype=np.intp) if repeats or params.no_repeat_ngram else _NONE
    bans = [_below(params.banned_ids, size)] if params.banned_ids else []
    bans += [_below(tuple(forbidden), size)] if forbidden else []
    bans += [ngram_bans(seen, params.no_repeat_ngram)] if params.no_repeat_ngram else []
    subtracted: list[tuple[Indices, Floats]] = []
    if params.logit_bias:
        subtracted.append(_biases(params.logit_bias, size))
    if counts and len(written):
        counted = np.asarray(written, dtype=np.intp)
        amounts = params.presence_penalty + params.frequency_penalty * np.bincount(counted)[counted]
        subtracted.append((counted, amounts.astype(np.float64, copy=False)))
    if dry:
        pair = dry_penalties(history, params)
        subtracted += [pair] if len(pair[0]) else []
    return Edits(
        repeated=seen if repeats else seen[:0],
        subtracted=tuple(subtracted),
        banned=np.concatenate(bans) if len(bans) > 1 else bans[0] if bans else _NONE,
    )


def penalise(
    logits: AnyFloats,
    params: SamplingParams,
    context: Sequence[int],
    written: Sequence[int],
    forbidden: Collection[int] = (),
    history: Sequence[int] | SuffixMatches = (),
) -> AnyFloats:
    """Logits ``[V]`` after bans and penalties: ``logits`` itself if there are none, float64 if there are penalties.

    context: the tokens in the window, for the repetition penalty (Keskar et al. 2019) and n-gram bans.
    written: those of them that were generated, for presence and frequency penalties.
    forbidden: ids banned at this step besides ``params.banned_ids``.
    history: all tokens of the text, prompt included, for the DRY penalty.
    """
    return _edited(logits, edits(params, context, written, forbidden, len(logits), history), params)


def penalised_among(logits: AnyFloats, todo: Edits, params: SamplingParams, ids: Indices) -> AnyFloats:
    """What :func:`penalise` makes of the logits of ``ids``, at least one and ascending, in a new array."""
    if len(todo.repeated) or todo.subtracted:
        return _edited(logits, todo, params)[ids]
    kept = logits.take(ids)  # in three quarters of the time of an index
    if len(todo.banned):
        at = ids.searchsorted(todo.banned)
        at[at == len(ids)] = 0
        kept[at[ids[at] == todo.banned]] = -np.inf
    return kept


@np.errstate(over="ignore")  # float32 logits may be as great as they can be
def _edited(logits: AnyFloats, todo: Edits, params: SamplingParams) -> AnyFloats:
    penalties = len(todo.repeated) + len(todo.subtracted) > 0
    if not (penalties or len(todo.banned)):
        return logits
    logits = logits.astype(np.float64 if penalties else logits.dtype)
    # of an id that comes twice, the value is read twice before it is written
    values, penalty = logits[todo.repeated], params.repetition_penalty
    logits[todo.repeated] = np.where(values > 0, values / penalty, values * penalty)
    for ids, amounts in todo.subtracted:
        logits[ids] = logits[ids] - amounts
    logits[todo.banned] = -np.inf
    return logits


@functools.lru_cache(maxsize=64)  # the same at every step, and many if the vocabulary is padded
def _below(ids: tuple[int, ...], size: int) -> Indices:
    return np.array([i for i in ids if i < size], dtype=np.intp)


@functools.lru_cache(maxsize=64)  # the same at every step
def _banned(ids: tuple[int, ...], size: int) -> Edits:
    return Edits(_NONE, (), _below(ids, size))


@functools.lru_cache(maxsize=64)  # the same at every step
def _biases(entries: tuple[str, ...], size: int) -> tuple[Indices, Floats]:
    """Ids below ``size`` and their biases, negated: amounts to subtract."""
    known = {token: bias for token, bias in biases(entries).items() if token < size}
    return np.array(list(known), dtype=np.intp), -np.array(list(known.values()), dtype=np.float64)


def ngram_bans(context: Sequence[int] | Indices, n: int) -> Indices:
    """Ids that would complete an ``n``-gram which ``context`` already holds, some perhaps twice; none if ``n`` is 0."""
    tokens = np.asarray(context, dtype=np.intp)
    starts = max(0, len(tokens) - n + 1) if n else 0
    repeats = np.ones(starts, dtype=np.bool_)
    for i in range(n - 1 if starts else 0):
        repeats &= tokens[i : i + starts] == tokens[starts + i]
    return tokens[len(tokens) - starts :][repeats]
