"""Where a text stands in its form."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpm_gen.text.forms.line_reader import MOST_PART

Mask = NDArray[np.bool_]
RUN = MOST_PART - 1  # characters since the last sign that words may begin in


@dataclass(frozen=True, slots=True)
class State:
    """A value: it never changes, and equal tokens give equal states.

    segment, count: the segment and how many of its characters are written. end: the separator that is next, -1: characters are. text: of
    the segment so far. last: the last token of characters. zero: whether one without width followed. run, readings: the characters
    since the last sign, and how they are read. texts: the finished segments. groups: what each label may still be, of the labels that
    have a word. words: each label's rhyme words. used: characters so far; free: tokens that hold none of them, bool ``[V]`` (both only
    where no character may come twice).
    """

    segment: int = 0
    count: int = 0
    end: int = -1
    text: str = ""
    last: int = -1
    zero: bool = False
    run: str = ""
    texts: tuple[str, ...] = ()
    groups: tuple[tuple[str, frozenset[str]], ...] = ()
    words: tuple[tuple[str, str], ...] = ()
    readings: tuple[str | None, ...] = ()
    used: frozenset[str] = frozenset()
    free: Mask | None = dataclasses.field(default=None, compare=False, repr=False)
