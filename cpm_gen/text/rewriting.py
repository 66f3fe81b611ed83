"""What a rewrite of a passage must look like: its length, how it ends, its quotes; and where a written text is cut to fit.

Everything here is pure: the same text, selection and tokens give the same cut, in any batch.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cpm_gen.errors import InputError
from cpm_gen.text.tokenizer import Detokenizer, TextTokenizer

Ending = Literal["sentence", "clause", "line", "phrase"]

TOLERANCE = 0.3  # a candidate's characters are those of the selection, this share less or more
_INSERTED = (0.5, 2.0)  # the range of an inserted sentence, as shares of the mean sentence nearby
_NEAR = 2000  # characters on each side that say how long sentences are and which signs the text uses
_SHORT = 64  # characters of a text's end that are looked at for its signs
_USUAL = 20  # characters of a sentence where the text has none

_OPEN, _CLOSE = "“‘「『（(《【", "”’」』）)》】"
_CLAUSE = "，；：、,;:"
_ENDS = frozenset("。！？!?…")
_SIGNS = frozenset(_CLAUSE + "—") | _ENDS
_EDGES = _SIGNS | frozenset(_CLOSE)
_SENTENCE = re.compile(rf"(?:[。！？!?]|……|\.{{3}}|(?<![\d.])\.)[{re.escape(_CLOSE)}\"]*\Z")
_TAIL = re.compile(rf"[。！？!?….{_CLAUSE}—]*[{re.escape(_CLOSE)}\"]*\Z")
_FULL = "，！？；：（）"  # signs that a vocabulary may write in half width


@dataclass(frozen=True)
class Goal:
    """What a candidate must be.

    low, high: its characters. length: those aimed at. ending: a sentence's end; a clause's (a comma); a line's, without a sign; or a
    phrase within a clause, which may end after any token. head: the opening quotes that it begins with, which a candidate has, too.
    tail: the signs that the selection ends with. quotes: depth of open quotes and brackets at its lowest and at its end.
    lines, paired: whether it may hold line breaks, and quotes and brackets. barred: signs that it does not hold before its tail.
    """

    low: int
    high: int
    length: int
    ending: Ending
    head: str
    tail: str
    quotes: tuple[int, int]
    lines: bool
    paired: bool
    barred: frozenset[str]

    def fits(self, text: str) -> bool:
        """Whether ``text`` is long enough, not too long, and opens and closes quotes as the selection does."""
        return self.low <= len(text) <= self.high and _quotes(text) == self.quotes

    def nearly_fits(self, text: str) -> bool:
        """For a selection that leaves a quote open: :meth:`fits`, but ``text`` may leave fewer open."""
        lowest, last = _quotes(text)
        return self.low <= len(text) <= self.high and lowest >= self.quotes[0] and lowest <= last <= self.quotes[1]


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The selection without the white space at its edges. Raises InputError if it lies outside the text or is only white space."""
    if not 0 <= start <= end <= len(text):
        raise InputError(f"the selection must lie in the text, from 0 to {len(text)}; {start} to {end} does not")
    core = text[start:end]
    if core and not core.strip():
        raise InputError("the selection is only white space; select words, or nothing to have a sentence inserted")
    return start + len(core) - len(core.lstrip()), end - (len(core) - len(core.rstrip()))


def goal(text: str, start: int, end: int) -> Goal:
    """The goal for a selection that is :func:`trimmed`. An empty one asks for a sentence as long as those nearby."""
    left, core, right = text[:start], text[start:end], text[end:]
    at_line_end = not right or right[0] == "\n"
    if not core:
        return _insertion(left, right, at_line_end)
    length = len(core)
    found = _TAIL.search(core[-_SHORT:])  # a search of a long run of signs takes quadratic time
    tail = found[0] if found else ""
    ending: Ending
    if re.search(r"[。！？!?….]", tail):
        ending = "sentence"
    elif tail.strip(_CLOSE + '"'):
        ending = "clause"
    else:
        ending = "line" if at_line_end and not tail else "phrase"  # a tail of closing quotes alone belongs to a phrase
    low = max(1, math.floor(length * (1 - TOLERANCE)))
    high = max(low, math.ceil(length * (1 + TOLERANCE)))
    barred = frozenset() if ending == "sentence" else _SIGNS if ending == "phrase" else _ENDS
    head = core[: len(core) - len(core.lstrip(_OPEN))]
    paired = not frozenset(_OPEN + _CLOSE).isdisjoint(core)
    return Goal(low, high, length, ending, head, tail, _quotes(core), "\n" in core, paired, barred - set(core))


def _insertion(left: str, right: str, at_line_end: bool) -> Goal:
    near = left[-_NEAR:] + right[:_NEAR]
    parts = [part for part in re.split(r"[。！？!?…\n]+", near) if part.strip()]
    length = round(sum(map(len, parts)) / len(parts)) + 1 if parts else _USUAL
    signs = re.search(r"[。！？!?…]", near) is not None or not near.strip()
    inside = bool(left.strip()) and not left.endswith("\n") and not _SENTENCE.search(left[-_SHORT:].rstrip())
    ending: Ending = "line" if at_line_end and not signs else "clause" if inside and not at_line_end else "sentence"
    if ending == "clause":
        length = max(4, length // 3)
    tail = {"sentence": "。", "clause": "，", "line": "", "phrase": ""}[ending]
    low, high = (max(1, round(length * share)) for share in _INSERTED)
    barred = _ENDS if ending == "clause" else frozenset()
    return Goal(low, high, length, ending, "", tail, (0, 0), lines=False, paired=not inside, barred=barred)


def _quotes(text: str) -> tuple[int, int]:
    """The lowest and the last depth of open quotes and brackets."""
    depth = lowest = 0
    for sign in text:
        depth += (sign in _OPEN) - (sign in _CLOSE)
        lowest = min(lowest, depth)
    return lowest, depth


@dataclass(frozen=True)
class Cut:
    """A candidate as it was cut: its tokens, and their text."""

    token_ids: tuple[int, ...]
    text: str


class Cutter:
    """Reads a written text token by token and finds where it fits a goal.

    The first end of the wanted kind within the range of lengths is taken. If there is none, the sign (a comma, another sentence's end)
    nearest to the wanted length is replaced by the signs that the selection ends with; failing that, a selection that leaves a quote open
    is replaced by one that leaves fewer open. head_ids, tail_ids: tokens of the goal's head
    and tail; the written tokens follow the head.
    """

    def __init__(
        self, wanted: Goal, detokenizer: Detokenizer, head_ids: Sequence[int], tail_ids: Sequence[int]
    ) -> None:
        self._goal = wanted
        self._detokenizer = detokenizer
        self._tail_ids = tuple(tail_ids)
        self._ids: list[int] = []
        self._text = ""
        self._done = False
        self._found: Cut | None = None
        self._second: Cut | None = None
        self._third: Cut | None = None
        for i in head_ids:
            self._ids.append(i)
            self._text += detokenizer.push(i)

    def push(self, token: int) -> bool:
        """Take the next token; True once no further one can change the cut."""
        if self._done:
            return True
        wanted, before = self._goal, self._text
        piece = self._detokenizer.push(token)
        if "\n" in piece and not wanted.lines:
            if wanted.ending == "line" and wanted.fits(before):
                self._found = Cut(tuple(self._ids), before)
            self._done = True
            return True
        self._ids.append(token)
        self._text += piece
        if piece and wanted.fits(self._text) and self._ends():
            self._found = Cut(tuple(self._ids), self._text)
        elif piece and _EDGES.issuperset(piece):
            self._remember(before)
        self._done = self._found is not None or len(self._text) > wanted.high
        return self._done

    def _ends(self) -> bool:
        wanted, text = self._goal, self._text
        match wanted.ending:
            case "sentence":
                return _SENTENCE.search(text) is not None
            case "clause":
                return text[-1] in _CLAUSE and wanted.barred.isdisjoint(text)
            case "line":
                return False
        return len(text) >= wanted.length and text[-1] not in _SIGNS and wanted.barred.isdisjoint(text)

    def _remember(self, before: str) -> None:
        """Keep the text before a sign, with the selection's own signs in its place, if it comes nearer to the wanted length."""
        wanted = self._goal
        text = before + wanted.tail
        if before[-1:] in _SIGNS or not wanted.barred.isdisjoint(before):
            return
        if self._third is None and wanted.nearly_fits(text):
            self._third = Cut((*self._ids[:-1], *self._tail_ids), text)
        if not wanted.fits(text):
            return
        if self._second is None or abs(len(text) - wanted.length) < abs(len(self._second.text) - wanted.length):
            self._second = Cut((*self._ids[:-1], *self._tail_ids), text)

    def cut(self, tokenizer: TextTokenizer, detokenizer: Detokenizer) -> Cut | None:
        """The cut, or None if the text fits nowhere. ``detokenizer``: a new one, to check that no character is cut in two."""
        for found in (self._found, self._second, self._third):
            if found is not None:
                read = "".join(map(detokenizer.push, found.token_ids)) + detokenizer.flush()
                if read == found.text or read == (tokenizer.written(found.text) or read):
                    return found
        return None


@functools.lru_cache(4)
def quote_ids(tokenizer: TextTokenizer) -> frozenset[int]:
    """Ids of the tokens that open or close a quote or a bracket."""
    signs = frozenset(_OPEN + _CLOSE)
    return frozenset(
        i for i in range(tokenizer.size) if i not in tokenizer.holes and not signs.isdisjoint(tokenizer.surface(i))
    )


def with_signs_of(candidate: str, text: str, start: int, end: int, tokenizer: TextTokenizer) -> str:
    """``candidate`` with the signs of the text around the selection, where the vocabulary writes full-width signs in half width."""
    near = text[max(0, start - _NEAR) : end + _NEAR]
    for full in _FULL:
        half = tokenizer.written(full)
        if half and half != full and near.count(full) > near.count(half):
            sign = re.escape(half)
            candidate = re.sub(rf"(?<!\d){sign}|{sign}(?!\d)", full, candidate)
    if "……" in near and tokenizer.written("……") != "……":
        candidate = re.sub(r"\.{3,}", "……", candidate)
    return candidate
