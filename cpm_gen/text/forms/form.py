"""What a form is: sections of lines of parts, with tones, rhymes and given characters. Pure values.

A part is a run of characters between two separators or word boundaries, such as the seven characters of ``7a``. ``str(form)`` is in the
notation that :meth:`Form.parse` reads, and reads back to an equal form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from cpm_gen.config.options import RhymeBook

Tone = Literal["平", "仄", "中"]

SIGNS = "，、；：。！？"  # separators a form may ask for, as they are written
BOUNDARY = "+"

Place = tuple[int, int, str]  # line and column, from 1 on, of the form's notation or of the setting that is named


@dataclass(frozen=True)
class Slot:
    """The place of one character. 中: any tone. given: this character, whatever its tone.

    place: its line and column in the notation, or in the setting that gives it.
    """

    tone: Tone = "中"
    given: str | None = None
    place: Place = field(default=(0, 0, "form"), compare=False, repr=False)


@dataclass(frozen=True)
class Part:
    """Characters up to a separator, a word boundary or the line's end.

    least: the fewest characters; ``len(slots)`` are the most. label: the rhyme of the last character, a letter. same: the last character
    is the label's first rhyme word again. echo: the part repeats the last characters of the part before. end: a sign of ``SIGNS``,
    ``BOUNDARY``, or "" where the line ends without a sign.
    """

    slots: tuple[Slot, ...]
    least: int
    label: str | None = None
    same: bool = False
    echo: bool = False
    end: str = ""

    @property
    def most(self) -> int:
        """The most characters."""
        return len(self.slots)


@dataclass(frozen=True)
class Line:
    """A line of the text: parts, the last of which may end with a sign."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Section:
    """Lines under a name, which is not written. repeats: the name of an earlier section whose text this one has again."""

    name: str = ""
    lines: tuple[Line, ...] = ()
    repeats: str | None = None


@dataclass(frozen=True)
class Form:
    """A form of verse.

    groups: labels whose rhyme group is chosen, with the group's name in the book. required, forbidden: words that the text must hold and
    must not hold. distinct: no character twice, but for parts that repeat others. lenient: every reading of a character counts, not
    only the one it has in its word. neutral: characters in the neutral tone may rhyme. required_at: where required words were given.
    """

    sections: tuple[Section, ...]
    book: RhymeBook = "中华通韵"
    groups: tuple[tuple[str, str], ...] = ()
    required: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    distinct: bool = False
    lenient: bool = False
    neutral: bool = False
    required_at: tuple[tuple[str, Place], ...] = field(default=(), compare=False, repr=False)

    @staticmethod
    def parse(text: str) -> Form:
        """A form from its notation; see :mod:`cpm_gen.text.forms.notation`. Raises FormError with line and column."""
        from cpm_gen.text.forms.notation import parse

        return parse(text)

    @staticmethod
    def named(name: str, variant: int | str | None = None) -> Form:
        """A form by its name; see :func:`cpm_gen.text.forms.named.named`. Raises FormError for a name or variant that there is not."""
        from cpm_gen.text.forms.named import named

        return named(name, variant)

    def lines(self) -> Iterator[Line]:
        """The lines in the order of the text, those of repeated sections again."""
        by_name = {s.name: s.lines for s in self.sections if s.repeats is None}
        for section in self.sections:
            yield from section.lines if section.repeats is None else by_name[section.repeats]

    @property
    def characters(self) -> int:
        """The most characters of the text, without signs."""
        return sum(part.most for line in self.lines() for part in line.parts)

    def __str__(self) -> str:
        """The form in its notation."""
        chosen = "".join(f", {label}={group}" for label, group in self.groups)
        settings = [f"韵: {self.book}{chosen}"]
        settings += [f"必含: {', '.join(self.required)}"] * bool(self.required)
        settings += [f"禁用: {', '.join(self.forbidden)}"] * bool(self.forbidden)
        settings += ["重字: 不可"] * self.distinct + ["读音: 宽"] * self.lenient + ["轻声: 可"] * self.neutral
        lines = []
        for section in self.sections:
            if section.repeats is not None:
                lines.append(f"[{section.repeats}] 重复")
                continue
            lines += [f"[{section.name}]"] * bool(section.name)
            lines += [_line(line) for line in section.lines]
        return "\n".join(settings + lines) + "\n"

    def pattern(self) -> list[str]:
        """Each line with ○ for 平, ● for 仄, ⊙ for either; given characters as they are."""
        return ["".join(slots(p) + (p.label or "") + p.end for p in line.parts) for line in self.lines()]


def slots(part: Part) -> str:
    """○ for 平, ● for 仄, ⊙ for either; given characters as they are."""
    marks = {"平": "○", "仄": "●", "中": "⊙"}
    return "".join(s.given or marks[s.tone] for s in part.slots)


def _line(line: Line) -> str:
    return "".join(_part(part) + part.end for part in line.parts)


def _part(part: Part) -> str:
    if part.echo:
        return f"叠{part.most}{part.label or ''}"
    written, free, given = "", 0, ""
    toned = any(s.tone != "中" for s in part.slots)
    for slot in (*part.slots, Slot("平")):  # the last one only ends what goes before
        if given and slot.given is None:
            written, given = written + f"「{given}」", ""
        if free and (slot.given is not None or slot.tone != "中"):
            written, free = written + (str(free) if part.least == part.most else ""), 0
        if slot.given is not None:
            given += slot.given
        elif slot.tone == "中" and not toned:
            free += 1
        else:
            written += slot.tone
    written = written[:-1]
    if part.least < part.most:  # a range stands at the end, after given characters alone
        fixed = sum(s.given is not None for s in part.slots)
        written += f"{part.least - fixed}-{part.most - fixed}"
    return written + (part.label or "") + ("*" if part.same else "")
