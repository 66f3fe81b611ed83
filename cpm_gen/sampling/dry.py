"""DRY ("don't repeat yourself"): a penalty for tokens that would continue a passage which the text already holds.

As in text-generation-webui (pull request 5677) and llama.cpp (9702), without their sequence breakers: the token that followed an earlier
occurrence of the text's last ``n`` tokens, ``n`` at least ``dry_allowed_length``, loses
``dry_multiplier * dry_base ** (n - dry_allowed_length)`` of its logit. Of several occurrences before one token the longest counts; they may
overlap the text's end.

A pure function of the text's tokens and the parameters. It looks at the text, not at the window, so the result depends neither on where
the window stands, nor on other texts in the batch, nor on where a text was resumed.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cpm_gen.config.options import DRY_HISTORY, DRY_LONGEST, SamplingParams

Indices = NDArray[np.intp]
Tokens = NDArray[np.int32]

_MANY = 256  # up to this many matches, all their tokens are compared at once
_RECENT = 64  # of more, these last ones are measured first: most of the others are no longer than they are
_NONE = np.empty(0, dtype=np.intp)


def dry_penalties(history: Sequence[int], params: SamplingParams) -> tuple[Indices, NDArray[np.float64]]:
    """Token ids, each once, and what to subtract from their logits. history: all tokens of the text, those of the prompt first."""
    last = np.asarray(history)[-DRY_HISTORY:] if isinstance(history, array) else history[-DRY_HISTORY:]
    text = np.asarray(last, dtype=np.int32)
    ids, lengths = longest_matches(text, params.dry_allowed_length)
    return ids, params.dry_multiplier * params.dry_base ** (lengths - params.dry_allowed_length).astype(np.float64)


def longest_matches(text: Tokens, least: int) -> tuple[Indices, Indices]:
    """Tokens that followed the last ``least`` tokens of ``text`` or more of them, and how many more: ``[ids]``, ``[lengths]``.

    Lengths are at least ``least`` (1 or more) and at most ``DRY_LONGEST``.
    """
    places = len(text) - least
    if places <= 0:
        return _NONE, _NONE
    following = text[least:]
    match = text[:places] == text[places]  # match[i]: text[i : i + least] are the last tokens, following[i] comes next
    for k in range(1, least):
        match &= text[k : places + k] == text[places + k]
    count = np.count_nonzero(match)
    if not count:
        return _NONE, _NONE
    longest = np.zeros(following.max() + 1, dtype=np.uint8)  # of each token, as far as known
    if count > _MANY:
        first = max(0, places - 4 * _RECENT)
        recent = match[first:].nonzero()[0][-_RECENT:] + first + least
        np.maximum.at(longest, text[recent], _lengths(text, recent))
        for token in (longest == DRY_LONGEST).nonzero()[0]:
            match &= following != token
        at = _longer_than(text, match.nonzero()[0] + least, longest)
    else:
        at = match.nonzero()[0] + least
    length = least
    while len(at) > _MANY and length < DRY_LONGEST:  # compare one more token of each
        longer = _continues(text, at, length)
        np.maximum.at(longest, text[at[~longer]], np.uint8(length))
        at, length = at[longer], length + 1
    np.maximum.at(longest, text[at], _lengths(text, at))
    ids = (longest > 0).nonzero()[0]
    return ids, longest[ids].astype(np.intp)


def _longer_than(text: Tokens, at: Indices, longest: Indices) -> Indices:
    """Those of the places ``at`` before which the match may be longer than the longest one known for their token."""
    return at[_continues(text, at, longest[text[at]].astype(np.intp))]


def _continues(text: Tokens, at: Indices, length: int | Indices) -> NDArray[np.bool_]:
    """Whether the token ``length + 1`` places before each of ``at`` is the one in that place before the end of ``text``."""
    place = at - length - 1
    same: NDArray[np.bool_] = (place >= 0) & (text[place] == text[-1 - length])
    return same


def _lengths(text: Tokens, at: Indices) -> NDArray[np.uint8]:
    """How many tokens before each of ``at``, ascending, are those at the end of ``text``, at most ``DRY_LONGEST``."""
    back = np.arange(1, min(DRY_LONGEST, len(text)) + 1)
    place = at[:, None] - back
    differs = np.ones((len(at), len(back) + 1), dtype=np.bool_)  # the last column: at the latest there
    np.not_equal(text[place], text[-back], out=differs[:, :-1])
    if len(at) and at[0] < len(back):  # a negative place has read another token, which does not count
        differs[:, :-1] |= place < 0
    lengths: NDArray[np.uint8] = differs.argmax(1).astype(np.uint8)
    return lengths
