"""DRY ("don't repeat yourself"): a penalty for tokens that would continue a passage which the text already holds.

As in text-generation-webui (pull request 5677) and llama.cpp (9702), without their sequence breakers: the token that followed an earlier
occurrence of the text's last ``n`` tokens, ``n`` at least ``dry_allowed_length``, loses
``dry_multiplier * dry_base ** (n - dry_allowed_length)`` of its logit. Of several occurrences before one token the longest counts; they may
overlap the text's end.

A pure function of the text's tokens and the parameters. It looks at the text, not at the window, so the result depends neither on where
the window stands, nor on other texts in the batch, nor on where a text was resumed.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cpm_gen.config.options import DRY_HISTORY, DRY_LONGEST, SamplingParams

Indices = NDArray[np.intp]

_NONE = np.empty(0, dtype=np.intp)
_EDGE = np.arange(DRY_LONGEST, 0, -1, dtype=np.uint8)


class SuffixMatches:
    """For each place of a text: how many tokens before it are the last ones of the text, at most ``DRY_LONGEST``.

    Kept while the text grows. A place is known by its distance from the end, so a new token makes the match before it one longer, or
    ends it. The lengths are a function of the tokens, however many were appended at a time: no length depends on more than the last
    ``DRY_LONGEST`` of them.
    """

    def __init__(self, text: Sequence[int] = ()) -> None:
        """Begin with the tokens of ``text``."""
        self._tokens = np.empty(2 * DRY_HISTORY, dtype=np.intp)  # the newest first, from _newest on
        self._newest = len(self._tokens)
        self._count = 0  # tokens that are looked at, at most DRY_HISTORY
        self._lengths = np.zeros(DRY_HISTORY, dtype=np.uint8)  # [d - 1]: of the place d tokens before the end
        self._total = 0
        self._greatest = 0  # the greatest token id
        self.extend(text)

    def copy(self) -> SuffixMatches:
        """The same matches; the two grow apart."""
        other = copy.copy(self)
        other._tokens, other._lengths = self._tokens.copy(), self._lengths.copy()
        return other

    def extend(self, text: Sequence[int]) -> None:
        """Append the new tokens of ``text``, which begins with all tokens so far."""
        new = text[max(self._total, len(text) - DRY_HISTORY) :]
        self._total = len(text)
        earlier = np.asarray(new[:-DRY_LONGEST], dtype=np.intp)
        if len(earlier):  # no length depends on them after the last DRY_LONGEST tokens
            self._make_room(len(earlier))
            self._tokens[self._newest :][: len(earlier)] = earlier[::-1]
            self._greatest = max(self._greatest, int(earlier.max()))
            self._lengths[:] = 0
        for token in new[-DRY_LONGEST:]:
            self._append(token)

    def _make_room(self, count: int) -> None:
        if count > self._newest:
            self._tokens[DRY_HISTORY:] = self._tokens[self._newest :][:DRY_HISTORY]
            self._newest = DRY_HISTORY
        self._newest -= count
        self._count = min(self._count + count, DRY_HISTORY)

    def _append(self, token: int) -> None:
        self._make_room(1)
        self._tokens[self._newest] = token
        self._greatest = max(self._greatest, token)
        tokens, lengths = self._tokens[self._newest + 1 :][: self._count - 1], self._lengths[: self._count - 1]
        lengths += (lengths < DRY_LONGEST).view(np.uint8)
        lengths *= (tokens == token).view(np.uint8)
        if self._count == DRY_HISTORY:  # a match ends where the text that is looked at begins
            edge = lengths[-DRY_LONGEST:]
            np.minimum(edge, _EDGE, out=edge)

    def longest(self, least: int) -> tuple[Indices, Indices]:
        """Tokens that followed the last ``least`` tokens of the text or more of them, and how many more: ``[ids]``, ``[lengths]``.

        Ids ascend. Lengths are at least ``least`` (1 or more) and at most ``DRY_LONGEST``.
        """
        places = max(0, self._count - 1)
        lengths, following = self._lengths[:places], self._tokens[self._newest :][:places]
        match = lengths >= least
        count = np.count_nonzero(match)
        if not count:
            return _NONE, _NONE
        longest = np.zeros(self._greatest + 1, dtype=np.uint8)
        if 2 * count > places:  # the last token is most of the text, so it is most of what followed it, too
            last = following == following[0]
            greatest = (lengths * last.view(np.uint8)).max()
            longest[following[0]] = greatest if greatest >= least else 0
            match &= ~last
        at = match.nonzero()[0]
        np.maximum.at(longest, following.take(at), lengths.take(at))
        ids = (longest > 0).nonzero()[0]
        return ids, longest.take(ids).astype(np.intp)


def dry_penalties(
    history: Sequence[int] | SuffixMatches, params: SamplingParams
) -> tuple[Indices, NDArray[np.float64]]:
    """Token ids, each once, and what to subtract from their logits. history: all tokens of the text, those of the prompt first."""
    matches = history if isinstance(history, SuffixMatches) else SuffixMatches(history)
    ids, lengths = matches.longest(params.dry_allowed_length)
    return ids, _amounts(params.dry_multiplier, params.dry_base, params.dry_allowed_length).take(lengths)


@functools.lru_cache(maxsize=64)  # the same at every step
def _amounts(multiplier: float, base: float, allowed: int) -> NDArray[np.float64]:
    """What a token loses, by the length of the passage that it would continue."""
    return multiplier * base ** (np.arange(DRY_LONGEST + 1, dtype=np.float64) - allowed)
