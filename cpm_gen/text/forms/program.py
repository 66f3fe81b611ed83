"""A form in the order of its text: segments between separators, each with what its characters have to fulfil."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cpm_gen.text.forms.bans import ALONE, Around, Combination, Rooms, combinations, given_and_banned
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import BOUNDARY, Form, Slot
from cpm_gen.text.forms.lexicon import LINE_END, Lexicon, Sounding
from cpm_gen.text.forms.readings import read
from cpm_gen.text.forms.rhyme_books import named_groups, rhyme_book

SLACK = 16  # spare characters above those that a form needs, from which on none have to be kept for it
_NONE = frozenset[str]()


@dataclass(frozen=True)
class Segment:
    """Characters without a separator.

    copies: the segment whose text this one has again, its last characters if this one is shorter. same: the segment whose last character
    this one's is. source: another segment copies from this one. ends: the separators that follow, in order. given_groups: the rhyme
    groups of a given last character.
    """

    slots: tuple[Slot, ...]
    least: int
    label: str | None = None
    copies: int | None = None
    same: int | None = None
    source: bool = False
    ends: tuple[str, ...] = ()
    given_groups: frozenset[str] = _NONE

    @property
    def rhymes(self) -> bool:
        """Whether the last character is chosen for its rhyme."""
        return self.label is not None and self.copies is None and self.same is None


@dataclass(frozen=True)
class Program:
    """A form's segments, and the rhyme groups that each label may have before a word is written.

    combinations: characters of each segment that must not all be written, as a forbidden word would be unavoidable.
    """

    segments: tuple[Segment, ...]
    groups: dict[str, frozenset[str]]
    combinations: Mapping[int, tuple[Combination, ...]]


def make_program(form: Form, lexicon: Lexicon) -> Program:
    """Compile a form for a vocabulary; raises FormError for a form that its characters cannot fill."""
    found = with_required(form, form_segments(form), lexicon)
    return checked_program(form, found, lexicon)


def checked_program(
    form: Form,
    segments: tuple[Segment, ...],
    lexicon: Lexicon,
    within: Mapping[str, frozenset[str]] | None = None,
    taken: frozenset[str] = _NONE,
    around: Around = ALONE,
) -> Program:
    """The program of these segments; raises FormError where the vocabulary cannot fill them.

    within: groups that a label has to keep to. taken: characters that must not be written. around: the text around a passage.
    """
    sounding = lexicon.sounds(form.book, form.lenient, form.neutral)
    found = with_given_groups(form, segments)
    unavoidable = combinations(form.forbidden, found, around)
    taken = taken.union(*form.forbidden)  # a character of a longer word may be left out at any place
    _check_characters(form, found, lexicon, sounding, taken)
    chosen = {label: frozenset(named_groups(form.book, group)) for label, group in form.groups}
    groups = {
        label: _groups(form, label, found, sounding, (within or {}).get(label) or chosen.get(label), taken)
        for label in _labels(found)
    }
    return Program(found, groups, unavoidable)


def form_segments(form: Form) -> tuple[Segment, ...]:
    """The segments of a form, one for each part of its lines. Raises FormError for parts that do not agree."""
    found: list[Segment] = []
    first_word: dict[str, int] = {}
    begins: dict[str, int] = {}
    by_name = {s.name: s for s in form.sections if s.repeats is None}
    for section in form.sections:
        begin = len(found)
        source = begins.get(section.repeats) if section.repeats is not None else None
        begins.setdefault(section.name, begin)
        for line in (section if section.repeats is None else by_name[section.repeats]).lines:
            for at, part in enumerate(line.parts):
                copies = len(found) - 1 if part.echo else None
                if source is not None:
                    copies = source + len(found) - begin
                same = first_word.get(part.label or "") if part.same and copies is None else None
                if part.label is not None:
                    first_word.setdefault(part.label, len(found))
                ends = (part.end,) if part.end not in ("", BOUNDARY) else ()
                if at == len(line.parts) - 1:
                    ends = (*ends, LINE_END)
                found.append(Segment(part.slots, part.least, part.label, copies, same, False, ends))
    last = found[-1]
    if last.least == len(last.slots) or len(last.ends) > 1:  # the text ends with its last character or sign
        found[-1] = dataclasses.replace(last, ends=last.ends[:-1])
    sources = {s for segment in found for s in (segment.copies, segment.same) if s is not None}
    for at in sources:
        found[at] = dataclasses.replace(found[at], source=True)
    for segment in found:
        if segment.same is not None:
            _agree(found, segment.same, segment)
    return tuple(found)


def _agree(found: list[Segment], at: int, again: Segment) -> None:
    """Give a rhyme word the tone that it needs where it stands again."""
    *rest, last = found[at].slots
    tone = again.slots[-1].tone
    if last.given is None and tone != "中":
        if last.tone not in ("中", tone):
            raise FormError(
                f'"{again.label}*" wants the rhyme word in {tone} that was in {last.tone}; drop the *',
                *again.slots[-1].place,
            )
        found[at] = dataclasses.replace(found[at], slots=(*rest, dataclasses.replace(last, tone=tone)))


def with_required(
    form: Form, found: tuple[Segment, ...], lexicon: Lexicon, around: Around = ALONE
) -> tuple[Segment, ...]:
    """Give the required words their places: spread over the text, where their tones fit. Raises FormError."""
    placed = list(found)
    for number, word in enumerate(form.required):
        line, column, what = dict(form.required_at).get(word, (0, 0, "form"))
        places = [(line, column + number if line else 0, what) for number in range(len(word))]
        if missing := [c for c in word if c not in lexicon.single]:
            raise FormError(
                f"必含 {word}: the vocabulary has no token for {missing[0]}; choose another word",
                *places[word.index(missing[0])],
            )
        if held := next((banned for banned in form.forbidden if banned in word), None):
            raise given_and_banned(word, held, places[word.index(held)])
        beside = Rooms([banned for banned in form.forbidden if not set(banned).isdisjoint(word)], placed, around)
        table, read_as = rhyme_book(form.book), read(word)
        tones = [
            {tone for tone, _ in table.sounds(c, r, lenient=form.lenient, neutral=form.neutral)}
            for c, r in zip(word, read_as, strict=True)
        ]
        rooms = [
            (at, offset)
            for at, segment in enumerate(placed)
            for offset in range(segment.least - len(word) - (segment.label is not None) + 1)
            if segment.copies is None
            and all(
                slot.given is None and (slot.tone == "中" or slot.tone in tones[i])
                for i, slot in enumerate(segment.slots[offset : offset + len(word)])
            )
        ]
        while rooms:
            at, offset = rooms.pop(min(len(rooms) - 1, len(rooms) * (2 * number + 1) // (2 * len(form.required))))
            if beside.free(at, offset, word):
                break
        else:
            raise FormError(
                f"必含 {word} fits into no line of the form; choose another word or 中 for a tone", line, column, what
            )
        slots = list(placed[at].slots)
        slots[offset : offset + len(word)] = [Slot("中", c, place) for c, place in zip(word, places, strict=True)]
        placed[at] = dataclasses.replace(placed[at], slots=tuple(slots))
    return tuple(placed)


def _labels(found: tuple[Segment, ...]) -> list[str]:
    return list(dict.fromkeys(s.label for s in found if s.label is not None))


def _check_characters(
    form: Form, found: tuple[Segment, ...], lexicon: Lexicon, sounding: Sounding, taken: frozenset[str]
) -> None:
    for segment in found:
        for sign in segment.ends:
            if not len(lexicon.signs[sign]):
                name = "line end" if sign == LINE_END else sign
                raise FormError(f"the vocabulary has no token for {name}; leave it out of the form")
        for slot in segment.slots:
            if slot.given is None:
                continue
            if slot.given not in lexicon.single:
                raise FormError(f"the vocabulary has no token for {slot.given}; give another character", *slot.place)
    chosen = [s for segment in found if segment.copies is None for s in segment.slots if s.given is None]
    reserve = SLACK * (1 + len(_labels(found)))
    for tone, characters in sounding.of_tone.items():
        count = len(chosen) if form.distinct else 1
        room = len(characters - taken) // 2 - reserve if form.distinct else len(characters - taken)
        if count > room:
            what = f"重字: 不可 wants up to {count} characters of each tone" if form.distinct else f"a {tone} is wanted"
            raise FormError(f"{what}; the vocabulary has {max(room, 0)} to choose from; shorten the form")


def _groups(
    form: Form,
    label: str,
    found: tuple[Segment, ...],
    sounding: Sounding,
    within: frozenset[str] | None,
    taken: frozenset[str],
) -> frozenset[str]:
    """The groups of a label that have enough characters for all its words and hold those that are given."""
    groups = frozenset(sounding.groups) if within is None else within
    given = {s.given for segment in found for s in segment.slots if s.given}
    wanted = {"平": 0, "仄": 0, "中": 0}
    words: list[str] = []
    place = (0, 0, "form")
    for segment in found:
        if segment.label != label or not segment.rhymes:
            continue
        last = segment.slots[-1]
        place = last.place
        if last.given is None:
            wanted[last.tone] += 1
            continue
        words.append(last.given)
        groups &= segment.given_groups
        if not segment.given_groups:
            raise FormError(
                f'{last.given} of rhyme "{label}" rhymes with nothing in {form.book}; give another character', *place
            )
        if not groups:
            raise FormError(
                f'{" and ".join(words)} of rhyme "{label}" do not rhyme in {form.book}; give others', *place
            )

    def room(group: str, *tones: str) -> int:
        pools = [sounding.pool.get((tone, group), _NONE) for tone in tones]
        return len(_NONE.union(*pools) - taken - given)

    need_level, need_oblique = wanted["平"], wanted["仄"]
    total = sum(wanted.values())
    kept = frozenset(
        g
        for g in groups
        if room(g, "平") >= need_level and room(g, "仄") >= need_oblique and room(g, "平", "仄") >= total
    )
    if not kept:
        most = max(sorted(groups), key=lambda g: room(g, "平", "仄"))
        tones = " and ".join(f"{n} in {t}" for t, n in wanted.items() if n)
        raise FormError(
            f'rhyme "{label}" has {total} words ({tones}), and no group of {form.book} has as many in the vocabulary '
            f"({most}: {room(most, '平')} 平, {room(most, '仄')} 仄); use another label for some lines",
            *place,
        )
    return kept


def with_given_groups(form: Form, found: tuple[Segment, ...]) -> tuple[Segment, ...]:
    """The segments with the groups of their given rhyme words."""
    return tuple(
        dataclasses.replace(s, given_groups=_given_groups(form, found, at))
        if s.rhymes and s.slots[-1].given is not None
        else s
        for at, s in enumerate(found)
    )


def _given_groups(form: Form, found: Sequence[Segment], at: int) -> frozenset[str]:
    """The groups of a given last character: as it is read among those given before it, or all if that rhymes with nothing."""
    run, segment = "", found[at]
    while True:
        for slot in reversed(segment.slots):
            if slot.given is None:
                break
            run = slot.given + run
        else:
            at -= 1
            if at >= 0 and not found[at].ends:  # a word boundary, which a reading does not stop at
                segment = found[at]
                continue
        break
    table, reading = rhyme_book(form.book), read(run)[-1]
    strict = table.sounds(run[-1], reading, lenient=form.lenient, neutral=form.neutral)
    sounds = strict if any(g for _, g in strict) else table.sounds(run[-1], reading, lenient=True, neutral=True)
    return frozenset(g for _, g in sounds if g)
