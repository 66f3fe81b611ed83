"""The chapters of an outline: a :class:`cpm_gen.sampling.constraints.Constraint`.

A chapter's heading is given. Its text may end from its least length on, where the network writes the token that ends texts, and ends
from its greatest length on with the next sentence. After the last chapter the text is complete.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from cpm_gen.config.options import StyleName
from cpm_gen.errors import InputError
from cpm_gen.sampling.constraints import NO_IDS, Floats32, Indices
from cpm_gen.text.prompt_styles import line_end
from cpm_gen.text.stories.story import Chapter, StoryError
from cpm_gen.text.tokenizer import TextTokenizer

PATIENCE = 200  # characters above the greatest length; then only tokens that end a sentence are allowed
_REPLACEMENT = "\ufffd"  # what a part of a character reads as
_MOST_HELD = 16  # tokens of one character


class Place(NamedTuple):
    """Where a text stands: its chapter, how many tokens of the heading are written, how many characters follow it.

    partial: the tokens of a character that is not complete; it counts already. ended: whether the last token ended a sentence or a heading.
    """

    chapter: int = 0
    given: int = 0
    chars: int = 0
    partial: tuple[int, ...] = ()
    ended: bool = False


class Characters:
    """How many characters the tokens of a vocabulary write, white space aside. rows: of the network's vocabulary."""

    def __init__(self, tokenizer: TextTokenizer, rows: int) -> None:
        self.rows = rows
        self._tokenizer = tokenizer
        self._counts = np.zeros(rows, dtype=np.int32)
        self._partial = np.zeros(rows, dtype=np.bool_)
        special = set(tokenizer.specials.values())
        for i in range(min(tokenizer.size, rows)):
            if i not in tokenizer.holes and i not in special:
                text = tokenizer.surface(i)
                self._counts[i] = _visible(text)
                self._partial[i] = _REPLACEMENT in text

    def add(self, place: Place, token: int) -> tuple[int, tuple[int, ...]]:
        """The characters of a chapter with one more token, and the tokens of one that is not complete then."""
        if not place.partial and not self._partial[token]:
            return place.chars + int(self._counts[token]), ()
        ids = (*place.partial, token)[-_MOST_HELD:]
        text = self._tokenizer.decode(ids)
        added = _visible(text) - _visible(self._tokenizer.decode(ids[:-1]))
        return place.chars + max(0, added), ids if text.endswith(_REPLACEMENT) else ()


class Chapters:
    """An outline over a vocabulary. Safe to use for several texts at once.

    A text begins with the first heading; see :meth:`after` for others. Raises StoryError for a title that the vocabulary cannot write.
    """

    reason: Literal["story"] = "story"

    def __init__(
        self,
        outline: Sequence[Chapter],
        tokenizer: TextTokenizer,
        style: StyleName,
        characters: Characters,
    ) -> None:
        self._outline = tuple(outline)
        self._characters = characters
        newline = line_end(style, tokenizer)
        # a token that ends texts and not lines, too, ends the chapters
        self._end = None if tokenizer.end is None or newline == [tokenizer.end] else tokenizer.end
        before = newline if self._end is None else [self._end]
        self._headings = [[*before, *_encode(c.title, tokenizer), *newline] for c in self._outline]
        self._separator = len(before)
        self._newline = len(newline)
        self._begin = Place(given=self._separator)
        self._titles = {
            title: at for at, c in enumerate(self._outline) for title in (c.title, tokenizer.written(c.title))
        }
        self._given = {i: np.array([i], dtype=np.intp) for heading in self._headings for i in heading}
        rows = np.arange(characters.rows, dtype=np.intp)
        self._ends = NO_IDS if self._end is None else frozenset((self._end,))
        self._sentence_ends = tokenizer.boundary_ids("sentence") or frozenset()
        self._closing = rows[np.isin(rows, [*self._sentence_ends])]
        closes = (tokenizer.surface(i).strip() for i in self._sentence_ends)
        self._closes = tuple({text for text in closes if text})

    def after(self, text: str) -> Chapters:
        """The chapters of a text that begins with ``text``, which may hold some of them: it goes on in the last one whose heading it holds.

        Raises StoryError if that one is complete and there is no further one.
        """
        lines = text.split("\n")
        last = next((at for at in range(len(lines) - 1, -1, -1) if lines[at].strip() in self._titles), None)
        place = Place()
        if last is not None:
            at, body = self._titles[lines[last].strip()], "\n".join(lines[last + 1 :])
            # a text may end with the heading's last character; its line end is written then
            given = len(self._headings[at]) - (self._newline if last == len(lines) - 1 else 0)
            place = Place(at, given, _visible(body))
            if place.chars >= self._outline[at].most and body.rstrip().endswith(self._closes):
                place = Place(at + 1)
        if self.finished(place):
            raise StoryError("the text holds all chapters of the outline; add one, or leave the outline out")
        found = copy.copy(self)
        found._begin = place
        return found

    def begin(self) -> Place:
        """The place before the first token."""
        return self._begin

    def finished(self, place: Place) -> bool:
        """Whether the last chapter has ended."""
        return place.chapter == len(self._outline)

    def allowed(self, place: Place) -> Indices | None:
        """The ids that may come next, ascending; None: any."""
        chapter, heading = self._outline[place.chapter], self._headings[place.chapter]
        if place.given < len(heading):
            return self._given[heading[place.given]]
        return self._closing if place.chars >= chapter.most + PATIENCE and len(self._closing) else None

    def forbidden(self, place: Place) -> frozenset[int]:
        """Below the least length, the token that ends the chapter."""
        chapter, heading = self._outline[place.chapter], self._headings[place.chapter]
        return self._ends if place.given >= len(heading) and place.chars < chapter.least else NO_IDS

    def bias(self, place: Place, allowed: Indices) -> Floats32 | None:
        """Nothing."""
        return None

    def line_ends(self, place: Place) -> bool:
        """Whether the last token ended a sentence or a heading."""
        return place.ended

    def line_left(self, place: Place) -> int | None:
        """None: the length of a sentence depends on what is written."""
        return None

    def advance(self, place: Place, token: int) -> Place:
        """The place after a token; raises InputError for one that is not allowed there."""
        chapter, heading = self._outline[place.chapter], self._headings[place.chapter]
        if place.given < len(heading):
            if token != heading[place.given]:
                raise InputError(f"token {token} is not the next one of the heading {chapter.title}")
            given = place.given + 1
            return place._replace(given=given, ended=given == len(heading))
        if token == self._end:
            if place.chars < chapter.least:
                raise InputError(f"token {token} ends {chapter.title} before its {chapter.least:,} characters")
            return Place(place.chapter + 1, given=self._separator, ended=True)
        chars, partial = self._characters.add(place, token)
        ended = token in self._sentence_ends
        if ended and chars >= chapter.most:
            return Place(place.chapter + 1, ended=True)
        return place._replace(chars=chars, partial=partial, ended=ended)


def _encode(title: str, tokenizer: TextTokenizer) -> list[int]:
    ids = tokenizer.encode(title)
    if not ids or tokenizer.unk in ids:
        unknown = "".join(tokenizer.unknown(title)[:20]) or title
        raise StoryError(
            f"the title {title} cannot be written: the vocabulary has no piece for {unknown}; choose others"
        )
    return ids


def _visible(text: str) -> int:
    """Characters that are not white space."""
    return sum(not c.isspace() for c in text)


def most_tokens(outline: Sequence[Chapter]) -> int:
    """About how many tokens a text with an outline may have, where a token writes at least a character."""
    return sum(chapter.most + PATIENCE + len(chapter.title) for chapter in outline)
