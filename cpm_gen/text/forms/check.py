"""Whether a text keeps to a form: faults with line and column. It reads text, not tokens, and uses no mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import BOUNDARY, Form, Line, Part
from cpm_gen.text.forms.line_reader import is_han
from cpm_gen.text.forms.readings import read, settled
from cpm_gen.text.forms.rhyme_books import Sounds, named_groups, rhyme_book

_WIDE = str.maketrans({",": "，", "!": "！", "?": "？", ";": "；", ":": "：", ".": "。"})


FaultKind = Literal[
    "length", "sign", "end", "again", "given", "tone", "twice", "no_rhyme", "rhyme", "rhyme_twice", "lines", "missing", "unwanted"
]  # fmt: skip
RHYME_FAULTS: frozenset[FaultKind] = frozenset({"no_rhyme", "rhyme", "rhyme_twice"})


@dataclass(frozen=True)
class Fault:
    """What is wrong in a text. Line and column count from 1; column 0: the whole line.

    kind, expected, found: the message for programs, such as ``tone``, 仄 and the character that stands there.
    """

    line: int
    column: int
    message: str
    kind: FaultKind
    expected: str = ""
    found: str = ""


@dataclass(frozen=True)
class RhymeWord:
    """A word that rhymes, with the groups of the book that it has where it stands."""

    line: int
    column: int
    label: str
    text: str
    groups: frozenset[str]


@dataclass(frozen=True)
class Examined:
    """What a text is to a form, in the order of the text: its faults, and its rhyme words but for those that repeat another.

    groups: the groups that each label's words have in common, without those that do not rhyme with the others.
    """

    faults: tuple[Fault, ...]
    rhyme_words: tuple[RhymeWord, ...]
    groups: Mapping[str, frozenset[str]]


@dataclass
class _Rhyme:
    groups: frozenset[str]
    words: list[str]


class _Checker:
    def __init__(self, form: Form) -> None:
        self.form = form
        self.book = rhyme_book(form.book)
        self.faults: list[Fault] = []
        self.rhyme_words: list[RhymeWord] = []
        self.rhymes: dict[str, _Rhyme] = {}
        self.first_words: dict[str, str | None] = {}  # of each label; None: in a line that is not known
        self.learned: set[str] = set()  # labels whose first word is known from where it stands again
        self.original_unknown = False  # of a line that stands again
        self.used: set[str] = set()
        self.last: str | None = ""  # text of the part before; None: not known
        self.texts: dict[str, list[str | None]] = {}  # the lines of each section
        self.given = {s.given for line in form.lines() for p in line.parts for s in p.slots if s.given}

    def fault(self, line: int, column: int, message: str, kind: FaultKind, expected: str = "", found: str = "") -> None:
        self.faults.append(Fault(line, column, message, kind, expected, found))

    def sounds(self, text: str) -> list[Sounds]:
        """The sounds of each character of a run, by its words."""
        return [
            self.book.sounds(c, r, lenient=self.form.lenient, neutral=self.form.neutral, settled=settled(text, at, r))
            for at, (c, r) in enumerate(zip(text, read(text), strict=True))
        ]

    def lines(self, lines: Iterable[tuple[int, str | None]]) -> None:
        """Check numbered lines in their order; None: one that is not known."""
        sections = self.form.sections
        by_name = {s.name: s.lines for s in sections if s.repeats is None}
        wanted = [(own, s.repeats is not None, s.name) for s in sections for own in by_name[s.repeats or s.name]]
        for (number, line), (own, repeated, name) in zip(lines, wanted, strict=False):
            stripped = None if line is None else line.strip()
            original = None
            if repeated:
                original = self.texts[name].pop(0)
                self.texts[name].append(stripped if original is None else original)
            else:
                self.texts.setdefault(name, []).append(stripped)
            if line is None or stripped is None:
                self.last = None
                for part in own.parts:
                    if part.label and not part.same:
                        self.first_words.setdefault(part.label, None)
                continue
            self.original_unknown = repeated and original is None
            self.line(number, line, own, original is not None)
            if original is not None and stripped.translate(_WIDE) != original.translate(_WIDE):
                self.fault(number, 1, f"{original} stands here again", "again", original, stripped)

    def line(self, number: int, text: str, line: Line, repeated: bool) -> None:
        found, wrong = find_parts(line, text)
        for (parts, _), places in zip(_runs(line), found, strict=False):
            self.run(number, text, parts, places, repeated)
        if wrong is not None:
            self.faults.append(dataclasses.replace(wrong, line=number))

    def run(self, number: int, line: str, parts: list[Part], places: list[tuple[int, int]], repeated: bool) -> None:
        begin = places[0][0]
        sounds = self.sounds(line[begin : places[-1][1]])
        for part, (at, end) in zip(parts, places, strict=True):
            text = line[at:end]
            if part.echo and not repeated:
                if self.last is not None and text != self.last[-len(text) :]:
                    again = self.last[-len(text) :]
                    self.fault(number, at + 1, f"{again} stands here again, not {text}", "again", again, text)
            elif not repeated:
                self.part(number, at + 1, text, part, sounds[at - begin : end - begin])
            self.last = text

    def examined(self, lines: Iterable[tuple[int, str]]) -> Examined:
        """What was found, and words that the form forbids."""
        numbered = list(lines)
        text = "\n".join(line for _, line in numbered)
        for word in self.form.forbidden:
            for number, line in numbered if word in text else ():
                if word in line:
                    self.fault(number, line.index(word) + 1, f"{word} is not wanted", "unwanted", "", word)
        faults = sorted(self.faults, key=lambda f: (f.line, f.column))
        groups = {label: known.groups for label, known in self.rhymes.items()}
        return Examined(tuple(faults), tuple(self.rhyme_words), groups)

    def part(self, number: int, place: int, text: str, part: Part, sounds: list[Sounds]) -> None:
        for at, (c, slot) in enumerate(zip(text, part.slots, strict=False)):
            if slot.given is not None:
                if c != slot.given:
                    self.fault(number, place + at, f"{slot.given} is given here, not {c}", "given", slot.given, c)
                continue
            if slot.tone != "中" and slot.tone not in {tone for tone, _ in sounds[at]}:
                known = "".join(sorted({tone for tone, _ in sounds[at]})) or "of no known tone"
                self.fault(number, place + at, f"{c} is {known}; {slot.tone} stands here", "tone", slot.tone, c)
            again = at == len(text) - 1 and (part.same or self._is_learned(part.label, c))
            if (
                self.form.distinct
                and not again
                and (c in self.used or c in self.given)
                and c not in self._required(text, at)
            ):
                self.fault(number, place + at, f"{c} stands twice", "twice", "", c)
            self.used.add(c)
        if part.label:
            slot = part.slots[-1]
            fitting = {g for tone, g in sounds[-1] if g and (slot.tone in ("中", tone) or slot.given)}
            self.rhyme(number, place + len(text) - 1, text[-1], part, frozenset(fitting))

    def _is_learned(self, label: str | None, c: str) -> bool:
        """Whether ``c`` is the first word of a label, which a line before repeated, in a line that may be its first."""
        return self.original_unknown and label in self.learned and self.first_words[label] == c

    def _required(self, text: str, at: int) -> set[str]:
        """The characters of required words that stand at this place."""
        return {
            c
            for word in self.form.required
            for begin in range(max(0, at - len(word) + 1), at + 1)
            if text[begin : begin + len(word)] == word
            for c in word
        }

    def rhyme(self, number: int, column: int, word: str, part: Part, groups: frozenset[str]) -> None:
        label = part.label or ""
        if part.same:
            again = self.first_words.get(label)
            if again is None:
                self.first_words[label] = word
                self.learned.add(label)
            elif word != again:
                self.fault(number, column, f"{again} stands here again, not {word}", "again", again, word)
            return
        self.first_words.setdefault(label, word)
        self.rhyme_words.append(RhymeWord(number, column, label, word, groups))
        known = self.rhymes.get(label)
        if known is None:
            chosen = dict(self.form.groups).get(label)
            if chosen is not None:
                known = _Rhyme(frozenset(named_groups(self.form.book, chosen)), [])
        if not groups:
            book = self.form.book
            self.fault(number, column, f"{word} rhymes with nothing in {book}", "no_rhyme", book, word)
        elif known is None:
            self.rhymes[label] = _Rhyme(groups, [word])
        elif not known.groups & groups:
            others = " and ".join(known.words) or " or ".join(sorted(known.groups))
            message = f"{word} does not rhyme with {others} in {self.form.book}"
            self.fault(number, column, message, "rhyme", others, word)
        elif word in known.words:
            self.fault(number, column, f"{word} is a rhyme word twice", "rhyme_twice", "", word)
        else:
            self.rhymes[label] = _Rhyme(known.groups & groups, [*known.words, word])


def _runs(line: Line) -> Iterator[tuple[list[Part], str]]:
    """The parts between two signs, and the sign after them."""
    parts: list[Part] = []
    for part in line.parts:
        parts.append(part)
        if part.end != BOUNDARY:
            yield parts, part.end
            parts = []


def find_parts(line: Line, text: str) -> tuple[list[list[tuple[int, int]]], Fault | None]:
    """Where the parts of a line stand in its text, for each run up to a sign; and the fault of a text that does not have the parts.

    Runs behind the place that is wrong are not found.
    """
    text = text.translate(_WIDE)
    at = len(text) - len(text.lstrip())
    text = text.rstrip()
    found: list[list[tuple[int, int]]] = []
    for parts, sign in _runs(line):
        end = at
        while end < len(text) and is_han(text[end]):
            end += 1
        least, most = sum(p.least for p in parts), sum(p.most for p in parts)
        if not least <= end - at <= most:
            wanted = str(most) if least == most else f"{least} to {most}"
            message = f"{wanted} characters stand here, not {end - at}"
            return found, Fault(0, at + 1, message, "length", wanted, str(end - at))
        places = []
        for part in parts:
            places.append((at, min(at + part.most, end)))
            at = places[-1][1]
        found.append(places)
        if text[at : at + 1] != sign:
            there, end_of_line = text[at : at + 1], "the end of the line"
            message = f"{sign or end_of_line} stands here, not {there or end_of_line}"
            return found, Fault(0, at + 1, message, "sign", sign, there)
        at += len(sign)
    if at == len(text):
        return found, None
    return found, Fault(0, at + 1, f"the line ends here, not {text[at]}", "end", "", text[at])


def check(form: Form, text: str) -> list[Fault]:
    """The faults of a text, in its order; blank lines do not count. Raises FormError for a text that is none."""
    return list(examine(form, text).faults)


def examine(form: Form, text: str) -> Examined:
    """As :func:`check`, with the rhyme words."""
    if not isinstance(text, str):
        raise FormError("a text to check must be text")
    checker = _Checker(form)
    lines = [(at, line) for at, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1) if line.strip()]
    checker.lines(lines)
    wanted = sum(1 for _ in form.lines())
    if len(lines) != wanted:
        where = lines[min(len(lines), wanted + 1) - 1][0] if lines else 1
        found = len(lines)
        checker.fault(where, 0, f"the form has {wanted} lines, the text {found}", "lines", str(wanted), str(found))
    for word in form.required:
        if word not in text:
            checker.fault(1, 0, f"the text lacks {word}", "missing", word)
    return checker.examined(lines)


def examine_some(form: Form, lines: Sequence[str | None]) -> Examined:
    """The faults of some lines of a text, from its first one on, and their rhyme words. None: a line that is not known."""
    checker = _Checker(form)
    checker.lines(enumerate(lines, 1))
    return checker.examined([(number, line) for number, line in enumerate(lines, 1) if line is not None])
