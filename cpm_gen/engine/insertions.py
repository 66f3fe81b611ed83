"""Tokens that a window shows beside those of the history, such as a novel's premise: see :class:`Inserted`.

What is inserted changes only when the window moves. It is a pure function of a prefix of the history and of the constraint's state after
it, so that the cached and the recomputed context are equal, alone, in a batch and after a restart. The prefix ends a quarter of a hop
before the window is full: the steps that are left encode the next window, as they do without insertions.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Note(NamedTuple):
    """Tokens that stand before the ``at``-th of a history."""

    at: int
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Inserted:
    """What one window shows: ``before``, then its tokens of the history with the notes among them, each at its place.

    notes: in the order of their places; one whose place is out of sight stands where the window begins.
    shown, left_out: names of what is in sight, and of what was to be but had no room. They are reported and change nothing.
    """

    before: tuple[int, ...] = ()
    notes: tuple[Note, ...] = ()
    shown: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of inserted tokens."""
        return len(self.before) + sum(len(note.ids) for note in self.notes)

    def context(self, tokens: array[int], start: int, first: int = 0, count: int | None = None) -> list[int]:
        """Tokens ``first .. first + count`` of the context of a window at ``start``; all from ``first`` on by default."""
        parts: list[tuple[Sequence[int], int, int]] = [(self.before, 0, len(self.before))]
        for at, ids in self.notes:
            end = max(start, min(at, len(tokens)))
            parts += [(tokens, start, end), (ids, 0, len(ids))]
            start = end
        parts.append((tokens, start, len(tokens)))
        found: list[int] = []
        for part, begin, end in parts:
            size = max(0, end - begin)
            left = size - first if count is None else min(size - first, count - len(found))
            if left > 0:
                found.extend(part[begin + first : begin + first + left])
            first = max(0, first - size)
        return found


class Insertions(Protocol):
    """Chooses what each window shows beside the history."""

    @property
    def room(self) -> int:
        """The most tokens that are ever inserted; the window over the history is shorter by them."""

    def choose(self, tokens: Sequence[int], length: int, state: Any) -> Inserted:
        """What to insert after the first ``length`` tokens of a history. Pure.

        state: of the request's constraint after these tokens; None without one.
        """


NOTHING = Inserted()
