"""Words that a form must not hold (禁用), where some of its characters are known before they are written.

Between free places a word is no trouble: a token that would complete it is left out, and others fit. But a given character, 叠 and ``a*``
leave no choice, so a word that ends in one has to be avoided before. Each such place of the text is a :class:`Combination`: characters
that must not all be written. As long as none is complete, a character that no forbidden word has fits every free place, and the
text can be finished.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cpm_gen.sampling.constraints import Indices
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import Place
from cpm_gen.text.forms.lexicon import LONGEST, Lexicon
from cpm_gen.text.forms.slot_masks import NONE
from cpm_gen.text.forms.state import State

if TYPE_CHECKING:
    from cpm_gen.text.forms.program import Segment

# a free place: its segment, and its number there; -1: the last one of a segment of several lengths
Free = tuple[int, int]


@dataclass(frozen=True)
class Around:
    """What stands around the segments of a passage: the state before its first character, and the characters after its last one."""

    begin: State = field(default_factory=State)
    after: str = ""


ALONE = Around()


@dataclass(frozen=True)
class Combination:
    """Characters that must not all be written: ``own`` in one segment, the last of them, and ``earlier`` in those before it."""

    earlier: tuple[tuple[int, int, str], ...]
    own: tuple[tuple[int, str], ...]

    def left(self, state: State, length: int) -> tuple[tuple[int, str], ...]:
        """What of it is to be written, by the distance from the next place; none: it cannot come about. length: of the segment."""
        if any(state.texts[at][number] != c for at, number, c in self.earlier):
            return ()
        own = [(number if number >= 0 else length - 1, c) for number, c in self.own]
        if any(state.text[number] != c for number, c in own if number < state.count):
            return ()
        return tuple((number - state.count, c) for number, c in own if number >= state.count)


@dataclass(frozen=True)
class _Character:
    """A character of the text: known from the beginning, or that of a free place; neither: nothing is known of it.

    chosen: it is that free place itself.
    """

    known: str = ""
    free: Free | None = None
    chosen: bool = False
    place: Place = (0, 0, "form")


_Stretch = tuple[list[_Character], int, int]  # from sign to sign; where the segments' characters begin and end in it


def _characters(segments: Sequence[Segment], begin: State) -> list[list[_Character]]:
    """The characters of each segment at its full length."""
    found: list[list[_Character]] = []
    for at, segment in enumerate(segments):
        if at < begin.segment:
            found.append([_Character(c) for c in begin.texts[at]])
            continue
        own = [
            _Character(s.given or "", None if s.given else (at, i), True, s.place) for i, s in enumerate(segment.slots)
        ]
        if segment.copies is not None:
            again = found[segment.copies][-len(own) :]
            if segment.copies >= begin.segment and _ranged(segments[segment.copies]):
                again = [_Character()] * len(own)  # it stands in a line that is the same in both places
            own = [
                dataclasses.replace(c, chosen=False, place=s.place) for c, s in zip(again, segment.slots, strict=False)
            ]
        elif segment.same is not None:
            own[-1] = dataclasses.replace(_last(segments, found, segment.same, begin.segment), place=own[-1].place)
        if at == begin.segment:
            own[: begin.count] = [_Character(c) for c in begin.text]
        found.append(own)
    return found


def _ranged(segment: Segment) -> bool:
    return segment.copies is None and segment.least < len(segment.slots)


def _last(segments: Sequence[Segment], found: list[list[_Character]], at: int, first: int) -> _Character:
    """The last character of a segment, for one that has it again."""
    while at >= first and (source := segments[at].copies) is not None:
        at = source
    if at >= first and _ranged(segments[at]):
        return _Character(free=(at, -1))
    return dataclasses.replace(found[at][-1], chosen=False) if found[at] else _Character()


def _stretches(segments: Sequence[Segment], around: Around) -> Iterator[_Stretch]:
    """The text from sign to sign, without stretches that are the same as an earlier one."""
    begin = around.begin
    characters = _characters(segments, begin)
    stretch, first, skipped = [_Character(c) for c in begin.run], len(begin.run), begin.count
    seen = set()
    for at in range(begin.segment, len(segments)):
        stretch += characters[at][skipped:]
        skipped = 0
        if not segments[at].ends and at + 1 < len(segments):
            continue
        end = len(stretch)
        stretch += [_Character(c) for c in around.after] if not segments[at].ends else []
        key = first, tuple((c.known, c.free) for c in stretch)
        if key not in seen:
            seen.add(key)
            yield stretch, first, end
        stretch, first = [], 0


def _forced(words: Iterable[str], stretches: Iterable[_Stretch]) -> Iterator[tuple[str, dict[Free, str], Place]]:
    """Where words could end in a character that is not chosen there: the word, what free places decide about it, and its place."""
    by_end: dict[str, list[str]] = {}
    for word in words:
        by_end.setdefault(word[-1], []).append(word)
    longer = [word for ending in by_end.values() for word in ending if len(word) > 1]
    for stretch, first, end in stretches:
        for at in range(first, len(stretch)):
            last = stretch[at]
            if not last.known and (last.free is None or last.chosen):
                continue
            for word in by_end.get(last.known, ()) if last.known else longer:
                start = at - len(word) + 1
                if not 0 <= start < end:
                    continue
                need: dict[Free, str] = {}
                for c, character in zip(word, stretch[start : at + 1], strict=True):
                    if character.known:
                        if character.known != c:
                            break
                    elif character.free is None or need.setdefault(character.free, c) != c:
                        break
                else:
                    places = (c.place for c in stretch[start : at + 1] if c.place[0])
                    yield word, need, next(places, last.place)


def given_and_banned(given: str, word: str, place: Place) -> FormError:
    """The error of a form that gives ``given``, which holds a forbidden word."""
    return FormError(f"{given} is given and 禁用 has {word}; drop one of them", *place)


def combinations(
    words: Sequence[str], segments: Sequence[Segment], around: Around
) -> Mapping[int, tuple[Combination, ...]]:
    """The combinations of each segment. Raises FormError for a word all of whose characters are known."""
    found: dict[int, dict[Combination, None]] = {}
    for word, need, place in _forced(words, _stretches(segments, around)) if words else ():
        if not need:
            raise given_and_banned(word, word, place)
        last = max(at for at, _ in need)
        earlier = tuple((at, number, c) for (at, number), c in sorted(need.items()) if at < last)
        own = tuple((number, c) for (at, number), c in sorted(need.items()) if at == last)
        found.setdefault(last, {})[Combination(earlier, own)] = None
    return {at: tuple(each) for at, each in found.items()}


class Rooms:
    """Where a required word may stand without completing a forbidden one together with what is given."""

    def __init__(self, words: Sequence[str], segments: Sequence[Segment], around: Around) -> None:
        self._words = words
        self._of: dict[int, list[list[_Character]]] = {}
        for stretch, _, _ in _stretches(segments, around) if words else ():
            for at in {c.free[0] for c in stretch if c.free}:
                self._of.setdefault(at, []).append(stretch)

    def free(self, at: int, offset: int, word: str) -> bool:
        """Whether ``word`` may stand in segment ``at`` from ``offset`` on."""
        placed = {(at, offset + number): c for number, c in enumerate(word)}
        texts = ("".join(c.known or placed.get(c.free or (-1, -1), " ") for c in s) for s in self._of.get(at, ()))
        return not any(banned in text for text in texts for banned in self._words)


class Bans:
    """The words that a form must not hold, over a vocabulary."""

    def __init__(self, words: Iterable[str], found: Mapping[int, tuple[Combination, ...]], lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._combinations = found
        self._rests: dict[str, list[str]] = {}  # by the beginnings of the words
        for word in words:
            for at in range(1, len(word)):
                self._rests.setdefault(word[:at], []).append(word[at:])
        self._longest = max(map(len, self._rests), default=0)
        self._beginning = functools.lru_cache(4096)(self._find_beginning)
        self._holding = functools.lru_cache(4096)(self._find_holding)

    def barred(self, state: State, length: int) -> list[Indices]:
        """Tokens that complete a word, or make one unavoidable. length: of the segment."""
        run = state.run
        found = [
            self._beginning(rest)
            for at in range(1, min(len(run), self._longest) + 1)
            for rest in self._rests.get(run[-at:], ())
        ]
        for combination in self._combinations.get(state.segment, ()):
            if left := combination.left(state, length):
                found.append(self._holding(left))
        return found

    def may_end(self, state: State) -> bool:
        """Whether a segment of several lengths may end here: its last character may stand again elsewhere."""
        return not any(
            c.own[0] == (-1, state.text[-1])
            and all(state.texts[at][number] == known for at, number, known in c.earlier)
            for c in self._combinations.get(state.segment, ())
        )

    def _find_beginning(self, text: str) -> Indices:
        """Tokens that begin with ``text``."""
        ids = self._lexicon.starting.get(text[:4], NONE)
        return ids[[self._lexicon.texts[int(i)].startswith(text) for i in ids]] if len(ids) else ids

    def _find_holding(self, left: tuple[tuple[int, str], ...]) -> Indices:
        """Tokens that hold all of these characters at these places."""
        if max(at for at, _ in left) >= LONGEST:
            return NONE
        ids = self._lexicon.containing.get(left[0][1], NONE)
        for at, c in left:
            ids = ids[self._lexicon.codes[at, ids] == ord(c)]
        return ids
