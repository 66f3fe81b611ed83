"""Which tokens a step is trained on, as a pure function of the seed and the number of the window.

A run that goes on after a crash therefore sees the windows that it would have seen.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpm_gen.errors import InputError
from cpm_gen.finetuning.texts import Ids, Texts

IGNORED = -100  # a target that is not counted
WHOLE_FROM = 0.85  # share of the run from which windows are whole

Array = NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """What the network is given: ids, the token after each, and positions, all int64 ``[rows, length]``."""

    ids: Array
    targets: Array
    positions: Array


class Windows(Protocol):
    """The windows of a run. tokens: of an epoch. length: most tokens of a window."""

    tokens: int
    length: int

    def rows(self, index: int, whole: bool) -> Rows:
        """The rows of window ``index``. whole: whether it is one of the last of the run."""

    def epoch_windows(self) -> float:
        """The number of windows in an epoch."""


class RandomWindows:
    """Windows at random places of the packed texts, each beginning after a line or a sentence, as prompts do.

    A window that is not whole is two rows of half the length, of which every second one begins at a random position, so that all of the
    position table is trained. Sources are drawn by their shares. Raises InputError for texts shorter than a window.
    """

    def __init__(self, texts: Texts, ends: Collection[int], length: int, positions: int, seed: int) -> None:
        self.tokens = texts.tokens
        self.length = length
        self._positions = positions
        self._seed = seed
        self._unk = texts.unk
        self._shares = texts.shares
        self._streams = [s.train for s in texts.sources]
        for source, stream in zip(texts.sources, self._streams, strict=True):
            if len(stream) <= length:
                raise InputError(
                    f"{source.source.path}: {len(stream):,} tokens to train on, but a window has {length:,} and one more; "
                    f"give more text, or --length {_shorter(len(stream))}"
                )
        found = np.array(sorted(ends), dtype=np.int32)
        self._starts = [np.concatenate([[0], np.flatnonzero(np.isin(s, found)) + 1]) for s in self._streams]

    def epoch_windows(self) -> float:
        return self.tokens / self.length

    def rows(self, index: int, whole: bool) -> Rows:
        draw = np.random.default_rng([self._seed, index])
        if whole:
            return self._drawn(draw, 1, self.length)
        return self._drawn(draw, 2, self.length // 2)

    def _drawn(self, draw: np.random.Generator, rows: int, length: int) -> Rows:
        ids = np.empty((rows, length + 1), dtype=np.int64)
        positions = np.empty((rows, length), dtype=np.int64)
        for row in range(rows):
            source = int(draw.choice(len(self._streams), p=self._shares))
            stream, starts = self._streams[source], self._starts[source]
            at = min(int(draw.choice(starts)), len(stream) - length - 1)
            ids[row] = stream[at : at + length + 1]
            offset = int(draw.integers(0, self._positions - length + 1)) if row % 2 else 0
            positions[row] = np.arange(offset, offset + length)
        return Rows(ids[:, :-1], targets_of(ids[:, 1:], self._unk), positions)


def targets_of(following: Array, unk: int | None) -> Array:
    """The targets: unknown characters are none, so that the model does not learn to write them."""
    return following if unk is None else np.where(following == unk, IGNORED, following)


def _shorter(tokens: int) -> int:
    """The greatest power of two, at least 8, that is a window's length in a text of ``tokens`` tokens."""
    return max(8, 1 << (max(tokens - 1, 8).bit_length() - 1))


def held_out_rows(ids: Ids, length: int, most: int, unk: int | None) -> list[Rows]:
    """Consecutive windows of held-out ids for a loss that can be compared: up to ``most`` tokens, the last window shorter."""
    found = []
    for at in range(0, min(most, len(ids) - 1), length):
        piece = ids[at : at + length + 1].astype(np.int64)
        targets = targets_of(piece[None, 1:], unk)
        if (targets != IGNORED).any():
            found.append(Rows(piece[None, :-1], targets, np.arange(len(piece) - 1, dtype=np.int64)[None]))
    return found
