"""Reads one line of the notation: its parts with their slots, separators and rhymes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NoReturn

from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import BOUNDARY, SIGNS, Line, Part, Slot, Tone

MOST_PART = 40
LABELS = "abcdefghijklmnopqrstuvwxyz"
TONES: dict[str, Tone] = {"平": "平", "仄": "仄", "中": "中", "○": "平", "●": "仄", "⊙": "中"}
_SIGNS = {",": "，", ".": "。", "!": "！", "?": "？", ";": "；", ":": "：", "+": BOUNDARY} | {s: s for s in SIGNS}


def is_han(c: str) -> bool:
    """Whether ``c`` is a Chinese character of the basic block."""
    return "\u4e00" <= c <= "\u9fff" or c == "〇"


def read_line(text: str, at: int, before: Sequence[Line], labels: dict[str, list[int]]) -> Line:
    """Read line ``at``; the lines that use each label are added to ``labels``. before: the lines above it. Raises FormError."""
    reader = _Reader(text, at)
    parts: list[Part] = []
    while True:
        begin = reader.at
        part = reader.part()
        if part.echo:
            last = parts[-1] if parts else before[-1].parts[-1] if before else None
            if last is None or last.least != last.most or last.most < part.most:
                reader.fail("叠 repeats characters of the part before, which has to have as many", begin)
        sign = _SIGNS.get(reader.next, "")
        if reader.next and not sign:
            reader.fail(f"{reader.next} does not belong here; a comma, + or the line's end does")
        if part.least < part.most and sign == BOUNDARY:
            reader.fail("after a range stands a comma or the line's end, not +")
        reader.at += bool(sign)
        reader.skip()
        if part.label:
            labels.setdefault(part.label, []).append(at)
            if part.same and len(labels[part.label]) == 1:
                reader.fail(f'{part.label}* repeats a rhyme word of "{part.label}" above; there is none', begin)
        parts.append(dataclasses.replace(part, end=sign))
        if not reader.next:
            if sign == BOUNDARY:
                reader.fail("a part is missing after +")
            return Line(tuple(parts))


class _Reader:
    """Reads one line of parts."""

    def __init__(self, text: str, line: int) -> None:
        self.text, self.line, self.at = text.rstrip(), line, 0
        self.skip()

    def skip(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    @property
    def next(self) -> str:
        return self.text[self.at] if self.at < len(self.text) else ""

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        raise FormError(message, self.line, (self.at if at is None else at) + 1)

    def number(self) -> int:
        begin = self.at
        while self.next and self.next in "0123456789":
            self.at += 1
        if self.at - begin > 4:
            self.fail(f"a part has at most {MOST_PART} characters", begin)
        return int(self.text[begin : self.at])

    def part(self) -> Part:
        begin = self.at
        slots: list[Slot] = []
        least: int | None = None
        echo = False
        while self.next and (self.next in TONES or self.next in "「0123456789叠"):
            place = (self.line, self.at + 1, "form")
            if echo or least is not None:
                self.fail("a range and 叠 stand at the end of their part; put a comma after it")
            if self.next in TONES:
                slots.append(Slot(TONES[self.next], place=place))
                self.at += 1
            elif self.next == "「":
                slots += self.given()
            elif self.next == "叠":
                if slots:
                    self.fail("叠 begins a part of its own; put a comma before it")
                self.at += 1
                if not self.next or self.next not in "0123456789":
                    self.fail("叠 takes a number: how many characters repeat")
                slots += [Slot(place=place)] * self.number()
                echo = True
            else:
                count = self.number()
                if self.next == "-":
                    least, count = self.range(slots, count)
                slots += [Slot(place=place)] * min(count, MOST_PART + 1)
            if len(slots) > MOST_PART:
                self.fail(f"a part has at most {MOST_PART} characters; put a comma into it", begin)
            self.skip()
        if not slots:
            found = f", not {self.next}" if self.next else ""
            self.fail(f"a number of characters, tones (平仄中) or 「given」 stand here{found}")
        label = None
        if self.next and self.next in LABELS:
            label = self.next
            self.at += 1
        same = self.next == "*"
        if same:
            if label is None:
                self.fail("* follows a rhyme, such as 7a*")
            self.at += 1
        self.skip()
        return Part(tuple(slots), len(slots) if least is None else least, label, same, echo)

    def range(self, slots: list[Slot], low: int) -> tuple[int, int]:
        begin = self.at
        self.at += 1
        if not self.next or self.next not in "0123456789":
            self.fail("a range has two numbers, such as 4-6")
        high = self.number()
        if not low < high:
            self.fail(f"a range goes up, such as {min(low, high)}-{max(low, high) + (low == high)}", begin)
        if any(s.given is None for s in slots):
            self.fail("a range stands alone in its part or after given characters", begin)
        if low == 0 and not slots:
            self.fail("a range begins at 1 or more", begin)
        return len(slots) + low, high

    def given(self) -> list[Slot]:
        end = self.text.find("」", self.at)
        if end < 0:
            self.fail("「 is not closed; 」 is missing")
        characters = self.text[self.at + 1 : end]
        if not characters or not all(map(is_han, characters)):
            self.fail("between 「 and 」 stand Chinese characters")
        self.at = end + 1
        begin = self.at - len(characters)
        return [Slot("中", c, (self.line, begin + at, "form")) for at, c in enumerate(characters)]
