"""The slots of a passage: those of the form, with the characters that the text around them repeats."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cpm_gen.errors import InputError
from cpm_gen.text.forms.form import Slot
from cpm_gen.text.forms.lexicon import LINE_END
from cpm_gen.text.forms.placed_text import PlacedText
from cpm_gen.text.forms.program import Segment


@dataclass(frozen=True)
class Chosen:
    """Slots ``begin`` to ``end`` of a segment. exact: not all of what stands there, which keeps its length."""

    segment: int
    begin: int
    end: int
    exact: bool = False


def open_segments(placed: PlacedText, chosen: list[Chosen], *, free: bool) -> tuple[tuple[Segment, ...], bool]:
    """The segments up to the last of the chosen ones, which follow each other; and whether a token has to mark their end.

    Segments before them have no slots. free: raise InputError where no slot is free. Raises InputError for a segment that repeats one
    which is not known.
    """
    first, last = chosen[0].segment, chosen[-1].segment
    found = [Segment((), 0)] * first + list(placed.segments[first : last + 1])
    old = placed.old(last)
    ends_inside = chosen[-1].exact and old is not None and chosen[-1].end < len(old)
    again = _repeated_around(placed, found, first, last if ends_inside else last + 1)
    for at in range(first, last + 1):
        found[at] = _with_sources(placed, found[at], at, first)
    if chosen[0].begin:  # what stands before the passage is written
        slots = found[first].slots
        written = (Slot(),) * chosen[0].begin
        found[first] = dataclasses.replace(found[first], slots=(*written, *slots[chosen[0].begin :]))
    for part in (chosen[0], chosen[-1]):
        if part.exact:
            found[part.segment] = _cut(placed, found[part.segment], part)
    if free:
        _check_free(placed, found, chosen, again)
    segment = found[last]
    sign = segment.ends[:1] if segment.ends[:1] != (LINE_END,) else ()
    written_sign = last not in placed.spans and bool(sign) and not chosen[-1].exact
    marked = not written_sign and segment.copies is None and segment.least < len(segment.slots)
    found[last] = dataclasses.replace(segment, ends=segment.ends[:1] if written_sign or marked else ())
    return tuple(found), marked


def _repeated_around(placed: PlacedText, found: list[Segment], first: int, kept: int) -> dict[int, int]:
    """Give ``found`` the characters that are repeated behind the passage; where they are not repeated now, they do not bind.

    kept: the first segment whose last character stays. Returns which segment repeats which.
    """
    again: dict[int, int] = {}

    def bind(target: int, text: str, at: int) -> None:
        """Let the segment ``target``, or what it repeats, end with ``text``, which stands in the segment ``at``."""
        while first <= target < len(found) and (copied := found[target].copies) is not None:
            target = copied
        own = placed.old(target)
        if not first <= target < len(found) or (own is not None and not own.endswith(text)):
            return
        again[target] = at
        source = found[target]
        length = max(
            len(text), source.least if own is None else len(own)
        )  # of several lengths it keeps the one that it has
        given = tuple(Slot("中", c) for c in text)
        found[target] = dataclasses.replace(source, slots=(*source.slots[: length - len(given)], *given), least=length)
        if source.same is not None:
            bind(source.same, text[-1], at)

    for at, segment in enumerate(placed.segments[kept:], kept):
        text = placed.old(at)
        if text is not None and segment.copies is not None:
            bind(segment.copies, text, at)
        elif text is not None and segment.same is not None:
            bind(segment.same, text[-1], at)
    return again


def _with_sources(placed: PlacedText, segment: Segment, at: int, first: int) -> Segment:
    """The segment, which may repeat one before the passage."""
    if segment.copies is not None and segment.copies < first and placed.old(segment.copies) is None:
        raise InputError(
            f"{placed.line_name(at)} repeats {placed.line_name(segment.copies)}, which does not keep to the form; "
            "mend that one first"
        )
    if segment.same is not None and segment.same < first and placed.old(segment.same) is None:
        return dataclasses.replace(segment, same=None, label=None)
    return segment


def _cut(placed: PlacedText, segment: Segment, part: Chosen) -> Segment:
    """The segment up to the end of the part, with the length that it has."""
    old = placed.old(part.segment)
    if old is None or part.end == len(old):
        slots = segment.slots[: part.end]
        return dataclasses.replace(segment, slots=slots, least=len(slots))
    return Segment(segment.slots[: part.end], part.end)


def _check_free(placed: PlacedText, found: list[Segment], chosen: list[Chosen], again: dict[int, int]) -> None:
    for part in chosen:
        segment = found[part.segment]
        slots = segment.slots[part.begin : part.end] if part.exact else segment.slots[part.begin :]
        open_slots = [s for s in slots if s.given is None]
        if segment.copies is None and len(open_slots) > (segment.same is not None):
            return
    at = chosen[0].segment
    here, source = placed.line_name(at), found[at].copies
    if at in again:
        raise InputError(
            f"{here} stands again in {placed.line_name(again[at])}; select both, with what is between them"
        )
    if source is not None:
        raise InputError(f"{here} repeats {placed.line_name(source)}; select both, with what is between them")
    raise InputError(f"the form gives every character of the selection in {here}; there is nothing to choose")
