"""Forms by name: regulated verse in its four openings, and the 词牌 of 钦定词谱 (1715)."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping

from cpm_gen.text.forms.aliases import ALIASES
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import BOUNDARY, Form, Line, Part, Section, Slot, Tone
from cpm_gen.text.forms.readings import data_lines

_LENGTHS = {"五绝": (5, 4), "七绝": (7, 4), "五律": (5, 8), "七律": (7, 8)}
OPENINGS = ("仄起", "平起", "仄起入韵", "平起入韵")
# the four lines of regulated verse; 孤平 and three level tones at the end do not fit them
_LINES = {
    "a": {5: "中仄平平仄", 7: "中平中仄平平仄"},
    "A": {5: "中仄仄平平", 7: "中平中仄仄平平"},
    "b": {5: "中平平仄仄", 7: "中仄中平平仄仄"},
    "B": {5: "平平仄仄平", 7: "中仄平平仄仄平"},
}
LONG = {"五排": 5, "七排": 7, "排律": 5}  # characters of a line; the variant is the number of lines
LINES = (10, 200)  # the fewest and the most; they are even


def named(name: str, variant: int | str | None = None) -> Form:
    """A form by name; the variant is a number from 1 for 词牌, an opening for regulated verse, and may stand in the name.

    ``七绝``, ``五律 平起入韵``, ``五排 12``, ``浣溪沙``, ``浣溪沙 2``, ``钗头凤`` (which is ``撷芳词 4``). Raises FormError for a name or
    variant that there is not.
    """
    words = name.split()
    if not words or len(words) > 2:
        raise FormError("a form is a name and perhaps a variant, such as 七绝 平起 or 浣溪沙 2")
    if len(words) == 2:
        if variant is not None:
            raise FormError(f"{name}: the variant is given twice")
        variant = words[1]
    name = words[0]
    title, *usual = ALIASES.get(name, name).split()
    if variant is None and usual:
        variant = usual[0]
    if title in _LENGTHS:
        return _regulated(title, *_LENGTHS[title], _opening(title, variant))
    if title in LONG:
        return _long_regulated(title, variant)
    known = patterns()
    if title not in known:
        near = difflib.get_close_matches(name, [*_LENGTHS, *LONG, *known, *ALIASES], 3, 0.5)
        raise FormError(
            f"there is no form {name[:20]}"
            + (f"; did you mean {' or '.join(near)}?" if near else "; cpm-gen form list")
        )
    return _ci(title, _number(title, variant, len(known[title])))


def names() -> dict[str, int]:
    """The names of all forms, with the number of their variants; 0 for those of ``LONG``, which take a number of lines."""
    counted = {name: len(found) for name, found in patterns().items()}
    return dict.fromkeys(_LENGTHS, len(OPENINGS)) | dict.fromkeys(LONG, 0) | counted


def other_names() -> dict[str, dict[str, int | None]]:
    """The other names of each form, with the number of the variant that they mean; None: as the form's own name."""
    found: dict[str, dict[str, int | None]] = {}
    for name, meaning in ALIASES.items():
        title, *usual = meaning.split()
        found.setdefault(title, {})[name] = int(usual[0]) if usual else None
    return found


def is_name(name: str) -> bool:
    """Whether a form has this name."""
    return name in _LENGTHS or name in LONG or name in ALIASES or name in patterns()


def _opening(name: str, variant: int | str | None) -> str:
    if variant is None:
        return OPENINGS[0]
    if isinstance(variant, int) or variant.isdecimal():
        return OPENINGS[_number(name, variant, len(OPENINGS)) - 1]
    opening = variant.removesuffix("不入韵") if variant.endswith("不入韵") else variant
    opening = opening.replace("首句入韵", "入韵").replace("首句", "")
    if opening not in OPENINGS:
        raise FormError(f"{name} has no opening {variant[:20]}; it has {' '.join(OPENINGS)}")
    return opening


def _number(name: str, variant: int | str | None, most: int) -> int:
    if variant is None:
        return 1
    text = str(variant)
    if not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= most:
        raise FormError(f"{name} has the variants 1 to {most}, not {text[:20]}")
    return int(text)


_FIRST = {"仄起": "aB", "平起": "bA", "仄起入韵": "AB", "平起入韵": "BA"}


def _kinds(opening: str, lines: int) -> str:
    """The kinds of line in order. A couplet is ``aB`` or ``bA``, in turn; where the first line rhymes, it is ``A`` or ``B``."""
    kinds = _FIRST[opening]
    while len(kinds) < lines:
        kinds += "bA" if kinds.endswith("B") else "aB"
    return kinds


def _regulated(name: str, length: int, lines: int, opening: str) -> Form:
    if length == 7:  # a line of seven begins with the other tone: its last five are those of a line of five
        opening = {"仄": "平", "平": "仄"}[opening[0]] + opening[1:]
    kinds = _kinds(opening, lines)
    parts = []
    for at, kind in enumerate(kinds):
        label = "a" if kind in "AB" else None
        parts.append(Part(_slots(_LINES[kind][length]), length, label, end="。" if at % 2 else "，"))
    return Form(
        (Section("", tuple(Line(tuple(parts[at : at + 2])) for at in range(0, lines, 2))),), "平水韵", distinct=True
    )


def _long_regulated(name: str, variant: int | str | None) -> Form:
    least, most = LINES
    text = str(least if variant is None else variant)
    if not text.isdecimal() or len(text) > 3 or int(text) % 2 or not least <= int(text) <= most:
        raise FormError(
            f"{name} takes an even number of lines from {least} to {most}, such as {name} 12, not {text[:20]}"
        )
    form = _regulated(name, LONG[name], int(text), OPENINGS[0])
    return Form(form.sections, form.book)


def _slots(tones: str) -> tuple[Slot, ...]:
    return tuple(Slot(_TONES[t]) for t in tones)


_TONES: dict[str, Tone] = {"平": "平", "仄": "仄", "中": "中"}


@functools.cache
def patterns() -> Mapping[str, tuple[str, ...]]:
    """The patterns of each 词牌, as the table has them."""
    return {name: tuple(forms) for name, *forms in data_lines("cipu")}


_CLAUSE = re.compile("([平仄中]*)([^平仄中韵句读叶叠换重]*)([韵句读叶叠换重]*)")


def _clauses(pattern: str) -> list[tuple[str, str, str]]:
    """The clauses of a pattern: tones, syllables that are sung between them, marks.

    A change of rhyme has the new rhyme's tone before its mark, as in 换仄韵. In patterns that rhyme in both tones, so has the first rhyme
    of each turn (仄韵, 平韵). This tone is a remark and no character.
    """
    clauses: list[tuple[str, str, str]] = _CLAUSE.findall(re.sub("换[平仄](?=[韵叶])", "换", pattern))
    tones_of = [tones[-1:] for tones, _, marks in clauses if "韵" in marks]
    if not {"平", "仄"} <= set(tones_of):
        return clauses
    found, before = [], ""
    for tones, sung, marks in clauses:
        if "韵" in marks and tones:
            if "换" not in marks and tones[-1] != before and tones[-2:-1] == tones[-1]:
                tones = tones[:-1]
            before = tones[-1]
        found.append((tones, sung, marks))
    return found


def _ci(title: str, number: int) -> Form:
    """A pattern of the table: 韵 句 读 end clauses; 叶 is the other tone of the same group, 换 another rhyme, 叠 and 重 repeated text."""
    rhymes = _Rhymes()
    lines: list[Line] = []
    parts: list[Part] = []
    clauses = _clauses(patterns()[title][number - 1])
    returns = _returns(clauses)
    for at, (tones, sung, marks) in enumerate(clauses):
        if at == returns:
            rhymes.begin_again()
        slots = _slots(tones)
        if not marks and not (tones and sung):  # the end, or a remark of the table
            continue
        rhymed = bool(set(marks) & set("韵叶叠换重"))
        before = parts[-1] if parts else lines[-1].parts[-1] if lines else None
        repeated = bool(set(marks) & set("叠重")) and before is not None
        echo = repeated and before is not None and _ends_like(before.slots, slots)
        known = set(rhymes.used)
        label = rhymes.label(slots[-1].tone, marks) if rhymed and slots and not echo else None
        end = "。" if rhymed else "、" if "读" in marks else "，" if marks else BOUNDARY
        if slots:
            free = (Slot(),) * len(slots) if echo else slots
            same = repeated and not echo and label in known
            parts.append(Part(free, len(slots), label, same, echo, BOUNDARY if sung else end))
        if sung:
            parts.append(Part(tuple(Slot("中", c) for c in sung), len(sung), end=end))
        if rhymed:
            lines.append(Line(tuple(parts)))
            parts = []
    if parts:
        lines.append(Line((*parts[:-1], dataclasses.replace(parts[-1], end="。"))))
    return Form((Section("", _without_lone_labels(lines)),), "词林正韵")


def _returns(clauses: list[tuple[str, str, str]]) -> int | None:
    """The clause where the second stanza returns to the first one's rhymes; None: it does not.

    The table says nothing where a stanza changes its rhyme within and the next has the same rhymes in the same places, as in 钗头凤: it
    has 换 where a stanza begins with another rhyme.
    """
    marks = [m for _, _, m in clauses if m]
    half = len(marks) // 2
    alike = marks[:half] == marks[half:] and any("换" in m for m in marks)
    return half if alike and all(m for _, _, m in clauses[: len(marks)]) else None


class _Rhymes:
    """The labels of a 词 in order: each tone keeps its own until 换."""

    def __init__(self) -> None:
        self.used: list[str] = []
        self._of_tone: dict[str, str] = {}
        self._again: list[str] = []  # labels to take instead of new ones, the next one last

    def begin_again(self) -> None:
        """Take the labels from the first one on again."""
        self._again, self._of_tone = self.used[::-1], {}

    def _new(self) -> str:
        if self._again:
            return self._again.pop()
        self.used.append("abcdefghijklmnopqrstuvwxyz"[len(self.used)])
        return self.used[-1]

    def label(self, tone: Tone, marks: str) -> str:
        if "换" in marks:
            self._of_tone[tone] = self._new()
        elif "叶" in marks:
            shared = self.used[-1] if self.used else self._new()
            self._of_tone[tone] = shared
            for other in "平仄":
                self._of_tone.setdefault(other, shared)
        elif tone not in self._of_tone:
            self._of_tone[tone] = self.used[-1] if tone == "中" and self.used else self._new()
        return self._of_tone[tone]


def _ends_like(before: tuple[Slot, ...], slots: tuple[Slot, ...]) -> bool:
    """Whether the end of the part before has the tones of ``slots``, so that its text fits again."""
    if len(before) < len(slots):
        return False
    pairs = zip(before[len(before) - len(slots) :], slots, strict=True)
    return all(a.tone == b.tone or "中" in (a.tone, b.tone) for a, b in pairs)


def _without_lone_labels(lines: list[Line]) -> tuple[Line, ...]:
    """The lines, without labels that rhyme with nothing."""
    count: dict[str, int] = {}
    for line in lines:
        for part in line.parts:
            if part.label:
                count[part.label] = count.get(part.label, 0) + 1
    return tuple(
        Line(
            tuple(
                Part(p.slots, p.least, p.label if p.label and count[p.label] > 1 else None, p.same, p.echo, p.end)
                for p in line.parts
            )
        )
        for line in lines
    )
