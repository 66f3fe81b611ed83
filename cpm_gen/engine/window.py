"""Which tokens of a history the network sees.

A network with ``P`` positions sees at most ``P`` tokens; a text may have any length. The context of a history is
``tokens[:keep] + tokens[start:]``. ``start`` stays until the context would exceed ``limit`` and then moves by at least ``hop``.
Everything here is pure: ``start`` depends on the tokens alone, so both schedulers, a restarted work and every rank agree.

Example, ``Window(limit=6, hop=3)``::

    a b c d e f      6 tokens, start 0
    d e f g          the 7th arrives: start 3
    d e f g h i
    g h i j          start 6

``hop=1, boundary="token"`` is the plain window of the original scripts, ``hop=1, boundary="eod"`` their dynamic one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import TypeVar, get_args

from cpm_gen.config.options import Boundary as Boundary
from cpm_gen.errors import ConfigError

History = TypeVar("History", list[int], tuple[int, ...], "array[int]")


@dataclass(frozen=True)
class Window:
    """Rule that turns a history into a context.

    limit: most tokens in a context; the network's positions minus one by default (see :func:`cpm_gen.llm.load`).
    hop: how far ``start`` moves at least when the context is full, in tokens.
    boundary: where ``start`` may be after a move: at any token, after a sentence, or after ``<eod>``.
    keep: number of tokens from the beginning that always stay.
    """

    limit: int
    hop: int
    boundary: Boundary = "token"
    keep: int = 0

    def __post_init__(self) -> None:
        """Check the numbers; raises ConfigError."""
        if self.limit < 1:
            raise ConfigError(f"window limit must be at least 1, not {self.limit}")
        if not 0 <= self.keep < self.limit:
            raise ConfigError(f"window keep must be from 0 to {self.limit - 1} (the limit less one), not {self.keep}")
        if not 1 <= self.hop <= self.limit - self.keep:
            raise ConfigError(
                f"window hop must be from 1 to {self.limit - self.keep} (limit {self.limit} less keep {self.keep}), "
                f"not {self.hop}"
            )
        if self.boundary not in get_args(Boundary):
            raise ConfigError(f"window boundary must be one of {', '.join(get_args(Boundary))}, not {self.boundary!r}")

    def advance(self, tokens: Sequence[int], start: int, ends: Set[int] | None, length: int | None = None) -> int:
        """``start`` for a history, given ``start`` for a prefix of it (``keep`` for the empty prefix).

        length: the history is the first ``length`` of ``tokens``; all of them by default. ends: ids after which ``start`` may be;
        None: any. A history several windows long gives the same result as one that grows token by token.
        """
        length = len(tokens) if length is None else length
        excess = self.keep + length - start - self.limit
        if ends is None and excess > 0:
            return start + -(-excess // self.hop) * self.hop
        for moved in self.moves(tokens, start, ends, length):
            start = moved
        return start

    def moves(self, tokens: Sequence[int], start: int, ends: Set[int] | None, length: int) -> Iterator[int]:
        """Successive values of ``start`` until the window shows the first ``length`` tokens; each token is examined once."""
        looked = 0
        while self.overflows(length, start):
            found = self.peek(tokens, start, ends, looked)
            looked = start + self.limit - self.keep if found is None else 0
            start = start + self.hop if found is None else found
            yield start

    def overflows(self, length: int, start: int) -> bool:
        """Whether a window at ``start`` cannot show all of a history of ``length`` tokens."""
        return self.keep + length - start > self.limit

    def peek(self, tokens: Sequence[int], start: int, ends: Set[int] | None, looked: int = 0) -> int | None:
        """The next value of ``start``, or None if the tokens do not determine it yet.

        With boundary "token" it is always known, otherwise once the first boundary in reach has been generated. looked:
        positions up to here were examined before.
        """
        target = start + self.hop
        if ends is None:
            return target
        reach = min(len(tokens), start + self.limit - self.keep)  # from the last position, one token is left
        return next((p for p in range(max(target, looked + 1), reach + 1) if tokens[p - 1] in ends), None)

    def within(self, room: int) -> Window:
        """The window over a history beside ``room`` tokens that are shown with it; it moves by the same part of its length."""
        limit = self.limit - room
        return Window(limit, max(1, self.hop * limit // self.limit), self.boundary, self.keep)

    def context(self, tokens: History, start: int) -> History:
        """``tokens[:keep] + tokens[start:]``."""
        return tokens[: self.keep] + tokens[max(start, self.keep) :]
