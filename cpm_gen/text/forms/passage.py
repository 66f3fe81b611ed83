"""A part of a text in a form that is written again: the slots that it has, and what the text around it settles.

It begins and ends anywhere in a line and may go over several. Another line that breaks the form keeps its faults: a passage makes no new
ones around it, and that line does not hinder it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cpm_gen.errors import InputError
from cpm_gen.text.forms.check import RHYME_FAULTS, Examined, examine
from cpm_gen.text.forms.form import Form
from cpm_gen.text.forms.line_reader import is_han
from cpm_gen.text.forms.passage_slots import Chosen, open_segments
from cpm_gen.text.forms.placed_text import PlacedText
from cpm_gen.text.forms.program import Segment
from cpm_gen.text.forms.readings import read
from cpm_gen.text.forms.rhyme_books import named_groups, rhyme_book
from cpm_gen.text.forms.state import RUN, State

Faults = Counter[tuple[int, int, str]]  # by where they stand


@dataclass(frozen=True)
class Passage:
    """What is written in place of ``text[start:end]``.

    segments: up to the passage's end; those before it have no slots. begin: the state before its first character, without masks.
    settled: the groups that a label has by the words around it. required: words that have to stand in it. joints: what stands in the text
    after each of its segments. marked: its last token only says where it ends. notes: rhyme words around it that do not agree
    with others. faults: those of the text around it.
    """

    form: Form
    text: str
    start: int
    end: int
    segments: tuple[Segment, ...]
    begin: State
    settled: Mapping[str, frozenset[str]]
    required: tuple[str, ...]
    joints: tuple[str, ...]
    marked: bool
    notes: tuple[str, ...]
    faults: Faults

    @property
    def characters(self) -> int:
        """The most characters of it, without signs."""
        return sum(len(s.slots) for s in self.segments) - self.begin.count

    def joined(self, texts: Sequence[str]) -> str | None:
        """What replaces ``text[start:end]``; None if the text would have a fault that it does not have now.

        texts: of the passage's segments, with the characters of the first one that stand before the passage.
        """
        own = (texts[0][self.begin.count :], *texts[1:])
        new = "".join(text + joint for text, joint in zip(own, self.joints, strict=True))
        whole = self.text[: self.start] + new + self.text[self.end :]
        around, inside = _faults(examine(self.form, whole), whole, self.start, self.start + len(new))
        return None if inside or around - self.faults else new


def passage(form: Form, text: str, start: int, end: int) -> Passage:
    """The passage of a selection, without the white space and the signs at its edges.

    Raises InputError for a selection without a character of a line, for a part of a line that does not keep to the form, and where the form
    and the text around leave nothing to choose.
    """
    placed = PlacedText(form, text)
    chosen = _chosen(placed, start, end)
    first, last = chosen[0], chosen[-1]
    span = placed.spans.get(first.segment)
    start = placed.place_of[first.segment].start if span is None else span[0] + first.begin
    span = placed.spans.get(last.segment)
    end = placed.place_of[last.segment].end if span is None else span[0] + last.end
    return _passage(placed, chosen, start, end, free=True)


def line_end(form: Form, text: str, line: int) -> Passage:
    """The last character of a line of the text, counted from 1 on and with blank lines, as faults are.

    A line that is too short ends after what is written of it. Raises InputError for a line that is none of the form's.
    """
    placed = PlacedText(form, text)
    place = next((p for p in placed.places if p.number == line), None)
    if place is None:
        known = ", ".join(str(p.number) for p in placed.places[:20]) or "none"
        raise InputError(f"line {line} is no line of the form; the text has {known}")
    at = place.first + len(place.line.parts) - 1
    if place.spans is not None:
        begin, end = place.spans[-1]
        return _passage(placed, [Chosen(at, end - begin - 1, end - begin, exact=True)], end - 1, end)
    end = place.end
    while end > place.start and not is_han(text[end - 1]):
        end -= 1
    whole = sum(map(is_han, text[place.start : end])) >= sum(part.least for part in place.line.parts)
    slots = len(placed.segments[at].slots)
    return _passage(placed, [Chosen(at, slots - 1, slots, exact=True)], end - whole, end)


def _chosen(placed: PlacedText, start: int, end: int) -> list[Chosen]:
    """The parts of the form that a selection holds characters of."""
    found: list[Chosen] = []
    text = placed.text
    behind = placed.places[-1].end if placed.places else 0
    if text[max(behind, start) : end].strip():
        raise InputError(f"the form has {len(list(placed.form.lines()))} lines; select within them")
    for place in placed.places:
        if place.end <= start or end <= place.start:
            continue
        if place.spans is None:
            rest = text[place.start : max(place.start, start)] + text[min(place.end, end) : place.end]
            if any(map(is_han, rest)):
                raise InputError(
                    f"line {place.number} does not keep to the form ({place.wrong}); select the whole line"
                )
            count = len(place.line.parts)
            found += [Chosen(at, 0, len(placed.segments[at].slots)) for at in range(place.first, place.first + count)]
            continue
        for at, (begin, stop) in enumerate(place.spans, place.first):
            first, last = max(start, begin), min(end, stop)
            if first < last:
                exact = (first, last) != (begin, stop)
                if exact and placed.segments[at].copies is not None:
                    raise InputError(f"line {place.number} repeats other words here; select the whole line")
                found.append(Chosen(at, first - begin, last - begin, exact))
    if not found:
        raise InputError("the selection holds no character of a line of the form; select a line or a half-line")
    return found


def _passage(placed: PlacedText, chosen: list[Chosen], start: int, end: int, *, free: bool = False) -> Passage:
    """The passage of parts that follow each other. free: raise InputError where there is nothing to choose."""
    form, text = placed.form, placed.text
    first, count = chosen[0].segment, chosen[0].begin
    segments, marked = open_segments(placed, chosen, free=free)
    before, after = text[:start], text[end:]
    at = start
    while at > 0 and is_han(text[at - 1]):
        at -= 1
    run = text[at:start]
    around = [w for w in placed.examined.rhyme_words if not start <= placed.offset(w.line, w.column) < end]
    labels = dict.fromkeys([*(word.label for word in around), *(label for label, _ in form.groups)])
    own = {s.label for s in segments if s.rhymes}
    disagree = {(w.line, w.column) for w in around if w.label in own}
    begin = State(
        segment=first,
        count=count,
        text=text[start - count : start] if first in placed.spans else " " * count,
        run=run[-RUN:],
        readings=tuple(read(run)[-RUN:]),
        texts=tuple(placed.old(at) or "" for at in range(first)),
        words=tuple((word.label, word.text) for word in around),
        used=frozenset(filter(is_han, before + after)) if form.distinct else frozenset(),
    )
    return Passage(
        form=form,
        text=text,
        start=start,
        end=end,
        segments=segments,
        begin=begin,
        settled={label: _settled(placed, label, start, end) for label in labels},
        required=tuple(w for w in form.required if w in text and w not in before and w not in after),
        joints=placed.joints([part.segment for part in chosen]),
        marked=marked,
        notes=tuple(
            f"line {f.line}, column {f.column}: {f.message}"
            for f in placed.examined.faults
            if (f.line, f.column) in disagree and f.kind in RHYME_FAULTS
        ),
        faults=_faults(placed.examined, text, start, end)[0],
    )


def _settled(placed: PlacedText, label: str, start: int, end: int) -> frozenset[str]:
    """The groups that words of a label in ``text[start:end]`` may have, so that no word around them is wrong that is not now."""
    words: tuple[list[frozenset[str]], ...] = ([], [], [])  # before, in and after the passage
    for word in placed.examined.rhyme_words:
        if word.label == label:
            at = placed.offset(word.line, word.column)
            words[(at >= start) + (at >= end)].append(word.groups)
    before, own, after = words
    book = placed.form.book
    chosen = dict(placed.form.groups).get(label)
    first = None if chosen is None else frozenset(named_groups(book, chosen))

    def wrong(own: list[frozenset[str]]) -> set[int]:
        """The words that do not rhyme, as the check finds them: each has to rhyme with those before it that do. -1: of the passage."""
        known, found = first, set()
        numbered = [*enumerate(before), *((-1, groups) for groups in own), *enumerate(after, len(before))]
        for number, groups in numbered:
            fitting = groups if known is None else groups & known
            if fitting:
                known = fitting
            else:
                found.add(number)
        return found

    now = wrong(own) - {-1}
    return frozenset(g for g in first or rhyme_book(book).groups if wrong([frozenset({g})]) <= now)


def _faults(examined: Examined, text: str, start: int, end: int) -> tuple[Faults, bool]:
    """The faults around ``text[start:end]``, by their distance to the text's nearer end; and whether there are some inside."""
    begins = [0]
    for line in text.split("\n"):
        begins.append(begins[-1] + len(line) + 1)
    found, inside = Faults(), False
    for fault in examined.faults:
        at = begins[fault.line - 1] + fault.column - 1
        if not fault.column:
            found[0, fault.line, fault.message] += 1
        elif start <= at < end:
            inside = True
        else:
            found[at if at < start else at - len(text) - 1, 0, ""] += 1
    return found, inside
