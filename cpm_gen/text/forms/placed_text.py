"""A text beside its form: where each part of the form stands in it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from cpm_gen.text.forms.check import examine, find_parts
from cpm_gen.text.forms.form import BOUNDARY, Form, Line
from cpm_gen.text.forms.program import form_segments


@dataclass(frozen=True)
class Place:
    """A line of the text that the form has. number: in the text, from 1 on; start, end: its characters, without white space.

    first: its first segment. spans: where the characters of each part stand; None: the line does not keep to lengths and signs. wrong: what
    is not kept.
    """

    number: int
    start: int
    end: int
    line: Line
    first: int
    spans: tuple[tuple[int, int], ...] | None
    wrong: str = ""


class PlacedText:
    """A text beside its form. Positions are characters of the text.

    segments: of the form. examined: faults and rhyme words. places: lines that the form has. place_of: that of each segment that the text
    has. spans: the characters of each segment whose line keeps to lengths and signs. Raises FormError.
    """

    def __init__(self, form: Form, text: str) -> None:
        self.form, self.text = form, text
        self.segments = form_segments(form)
        self.examined = examine(form, text)
        self.places: list[Place] = []
        self.place_of: dict[int, Place] = {}
        self.spans: dict[int, tuple[int, int]] = {}
        self._begins = [0]
        first, wanted = 0, form.lines()
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip() and (own := next(wanted, None)):
                self._read(number, line, own, first)
                first += len(own.parts)
            self._begins.append(self._begins[-1] + len(line) + 1)

    def _read(self, number: int, line: str, own: Line, first: int) -> None:
        begin, found = self._begins[-1], find_parts(own, line)
        start = begin + len(line) - len(line.lstrip())
        spans = None if found[1] else tuple((begin + a, begin + b) for run in found[0] for a, b in run)
        place = Place(number, start, start + len(line.strip()), own, first, spans, found[1].message if found[1] else "")
        self.places.append(place)
        for at in range(len(own.parts)):
            self.place_of[first + at] = place
            if spans is not None:
                self.spans[first + at] = spans[at]

    def old(self, segment: int) -> str | None:
        """The text of a segment; None: its line does not keep to lengths and signs, or is not there."""
        span = self.spans.get(segment)
        return None if span is None else self.text[slice(*span)]

    def offset(self, line: int, column: int) -> int:
        """The position of a column of a line, both from 1 on."""
        return self._begins[line - 1] + column - 1

    def line_name(self, segment: int) -> str:
        """The line of a segment, for errors."""
        place = self.place_of.get(segment)
        return "a line that is missing" if place is None else f"line {place.number}"

    def joints(self, segments: Sequence[int]) -> tuple[str, ...]:
        """What stands after each of these segments, which follow each other; where a line does not keep to the form, the form's sign.

        After the last one there is only that sign.
        """
        found = []
        for at, after in itertools.pairwise(segments):
            place, next_place = self.place_of[at], self.place_of[after]
            end = self.spans[at][1] if at in self.spans else place.end
            begin = self.spans[after][0] if after in self.spans else next_place.start
            between = "" if place is next_place and at not in self.spans else self.text[end:begin]
            found.append(self._sign(at) + between)
        return (*found, self._sign(segments[-1]))

    def _sign(self, at: int) -> str:
        """The form's sign after a segment of a line that does not keep to it; otherwise the text has one."""
        place = self.place_of[at]
        end = place.line.parts[at - place.first].end
        return "" if at in self.spans or end == BOUNDARY else end
