"""A form some of whose lines are given: the others are written around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from cpm_gen.text.forms.check import examine_some, find_parts
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import Form, Line, Place, Section, Slot
from cpm_gen.text.forms.program import form_segments, with_given_groups
from cpm_gen.text.forms.rhyme_books import rhyme_book

WHAT = "keep_lines"


def kept_lines(given: Sequence[str | None]) -> list[str | None]:
    """One entry for each line, None where it is to be written: an entry may hold several lines, and an empty one is None."""
    lines = [line for entry in given for line in ([""] if not entry else entry.replace("\r\n", "\n").split("\n"))]
    found = [line if line.strip() else None for line in lines]
    while found and found[-1] is None:
        found.pop()
    return found


def with_kept(form: Form, given: Sequence[str | None]) -> Form:
    """The form with the characters of these lines of its text as given ones.

    Raises FormError with line and column for a line that does not fit.
    """
    lines = kept_lines(given)
    count = sum(1 for _ in form.lines())
    if len(lines) > count:
        raise FormError(f"the form has {count} lines; this one is too many", count + 1, 0, WHAT)
    examined = examine_some(form, lines)
    for fault in examined.faults:
        raise FormError(fault.message, fault.line, fault.column, WHAT)
    keeper = _Keeper(form)
    for number, line in enumerate(lines, 1):
        if line is not None:
            keeper.keep(number, line)
    text = [line for line in lines if line is not None]
    required = tuple(word for word in form.required if not any(word in line for line in text))
    kept = dataclasses.replace(form, sections=keeper.sections(), required=required)
    groups = dict(form.groups)
    order = rhyme_book(form.book).groups
    segments = with_given_groups(kept, form_segments(kept))
    for label, known in examined.groups.items():
        # a given character may have any tone, and other groups with it
        own = [s.given_groups for s in segments if s.label == label]
        if len(known) == 1 or frozenset(order).intersection(*filter(None, own)) != known:
            groups.setdefault(label, next(group for group in order if group in known))
    return dataclasses.replace(kept, groups=tuple(groups.items()))


class _Keeper:
    """The parts of a form, whose slots are given one by one."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._parts = [[list(line.parts) for line in section.lines] for section in form.sections]
        by_name = {s.name: at for at, s in enumerate(form.sections) if s.repeats is None}
        self._lines: list[tuple[int, int]] = []  # section and line of each line of the text
        for at, section in enumerate(form.sections):
            own = at if section.repeats is None else by_name[section.repeats]
            self._lines += [(own, line) for line in range(len(form.sections[own].lines))]
        self._order = [(s, line, part) for s, line in self._lines for part in range(len(self._parts[s][line]))]
        self._segments = form_segments(form)

    def keep(self, number: int, text: str) -> None:
        """Give the slots of a line of the text; others that repeat them, too."""
        section, line = self._lines[number - 1]
        first = sum(len(self._parts[s][at]) for s, at in self._lines[: number - 1])
        spans, _ = find_parts(self._form.sections[section].lines[line], text)
        for at, (begin, end) in enumerate((span for run in spans for span in run), first):
            places = [(number, begin + offset + 1, WHAT) for offset in range(end - begin)]
            self._give(at, text[begin:end], places, whole=True)

    def _give(self, at: int, characters: str, places: list[Place], *, whole: bool) -> None:
        """Give the last characters of a segment; whole: all of them."""
        section, line, number = self._order[at]
        segment, part = self._segments[at], self._parts[section][line][number]
        if segment.copies is not None:
            self._give(segment.copies, characters, places, whole=whole and not part.echo)
            return
        length = len(characters) if whole else part.most
        given = {length - len(characters) + i: Slot("中", c, places[i]) for i, c in enumerate(characters)}
        if segment.same is not None:
            self._give(segment.same, characters[-1], places[-1:], whole=False)
            del given[length - 1]
        slots = list(part.slots[:length])
        for i, slot in given.items():
            old = slots[i].given
            if old is not None and old != slot.given:
                raise FormError(f"{old} is given here, not {slot.given}", *slot.place)
            slots[i] = slot
        self._parts[section][line][number] = dataclasses.replace(part, slots=tuple(slots), least=length)

    def sections(self) -> tuple[Section, ...]:
        """The form's sections with the slots that were given."""
        return tuple(
            dataclasses.replace(section, lines=tuple(Line(tuple(parts)) for parts in self._parts[at]))
            for at, section in enumerate(self._form.sections)
        )
