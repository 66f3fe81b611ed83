"""The two ways to get the next token's logits, side by side. Both ask the same window for the same context.

:class:`Recompute` is the oracle: short, obvious, kept for good. :class:`Cached` must equal it at every step, however long:
when the window moves it encodes the kept context again at positions ``0..``, so no key ever carries a position it no
longer has. (The original's ``*_fast`` scripts keep such keys; their text turns to noise past the position table.)
"""

from __future__ import annotations

from typing import Protocol

from cpm_gen.model import Segment
from cpm_gen.sequence import Sequence


class Decoder(Protocol):
    """Says what the network must run to continue a sequence."""

    def segment(self, sequence: Sequence) -> Segment:
        """The tokens to run now; the logits after the last of them are the next token's."""

    def release(self, sequence: Sequence) -> None:
        """The sequence has ended; forget it."""


class Recompute:
    """The whole context for every token, no cache."""

    def segment(self, sequence: Sequence) -> Segment:
        """Everything the window shows."""
        return Segment(sequence.context())

    def release(self, sequence: Sequence) -> None:
        """Nothing is kept."""


class Cached:
    """One token a step while the window stands; the whole context once when it has moved."""

    def __init__(self, slots: int) -> None:
        self._free = list(range(slots))[::-1]
        self._held: dict[
            int, tuple[int, int, int]
        ] = {}  # id of sequence -> slot, start it was encoded at, tokens cached

    def segment(self, sequence: Sequence) -> Segment:
        """The tokens that the sequence's slot does not hold yet."""
        slot, start, cached = self._held.get(id(sequence)) or (self._free.pop(), -1, 0)
        if start != sequence.start:
            ids, cached = sequence.context(), 0
        else:
            ids = sequence.tokens[len(sequence.tokens) - (self._length(sequence) - cached) :]
        self._held[id(sequence)] = (slot, sequence.start, cached + len(ids))
        return Segment(ids, cached, slot)

    @staticmethod
    def _length(sequence: Sequence) -> int:
        keep = sequence.request.window.keep
        return min(keep, len(sequence.tokens)) + max(0, len(sequence.tokens) - max(sequence.start, keep))

    def release(self, sequence: Sequence) -> None:
        """Free the slot."""
        held = self._held.pop(id(sequence), None)
        if held is not None:
            self._free.append(held[0])
