"""The notation of forms: text to :class:`~cpm_gen.text.forms.form.Form`.

::

    韵: 通韵, a=江阳
    藏头: 春江花月
    [主歌]
    7,7a
    「就让风吹」4a
    中仄平平中仄平a

Settings are lines with a known word and a colon. Errors are :class:`~cpm_gen.text.forms.errors.FormError` with line and column.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cpm_gen.text.forms import rhyme_books
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import BOUNDARY, Form, Line, Section, Slot
from cpm_gen.text.forms.line_reader import LABELS, MOST_PART, TONES, is_han, read_line

T = TypeVar("T")

MOST_CHARACTERS = 2000  # of a text
MOST_TEXT = 20_000  # characters of the notation

# An input method for Chinese types these; the columns of errors stay the same.
_HALF_WIDTH = str.maketrans(
    "【】［］＊＋－＝０１２３４５６７８９" + "".join(chr(ord("ａ") + i) for i in range(26)),
    "[][]*+-=0123456789" + LABELS,
)

SETTINGS = ("体", "词牌", "韵", "藏头", "必含", "禁用", "重字", "读音", "轻声")
# For lines without space at their end. Each character is read once, whatever the text: a search that goes back holds up the whole service.
_SETTING = re.compile(r"\s*(\w+)\s*[:：]\s*(.*)", re.DOTALL)
_SECTION = re.compile(r"\s*\[([^\[\]]{1,40})\]\s*(.*)", re.DOTALL)
_LIKE = re.compile(r"同\s*([^,，\s]+)\s*(.*)", re.DOTALL)
_WORD = re.compile(r"[^,，、;；\s]+")


@dataclass
class _Draft:
    """What was read so far."""

    sections: list[Section] = field(default_factory=list)
    named: dict[str, Section] = field(default_factory=dict)  # those with a name and lines of their own
    name: str = ""
    named_at: int = 0
    lines: list[Line] = field(default_factory=list)
    heads: tuple[str, int, list[int]] | None = None
    form: Form = field(default_factory=lambda: Form(()))
    template: Form | None = None
    seen: dict[str, int] = field(default_factory=dict)
    labels: dict[str, list[int]] = field(default_factory=dict)  # the lines that use each label
    characters: int = 0  # of the text

    def close(self) -> None:
        if self.lines:
            self.add(Section(self.name, tuple(self.lines)))
        elif self.name:
            raise FormError(f"the section [{self.name}] has no lines; write them below it", self.named_at)
        self.name, self.lines = "", []

    def add(self, section: Section) -> None:
        self.sections.append(section)
        if section.name and section.repeats is None:
            self.named[section.name] = section

    def count(self, lines: Sequence[Line], at: int) -> None:
        """Add lines to the text's length; a long form is refused before it is read to its end."""
        self.characters += sum(part.most for line in lines for part in line.parts)
        if self.characters > MOST_CHARACTERS:
            raise FormError(f"the text has more than {MOST_CHARACTERS:,} characters here; shorten the form", at)


def parse(text: str) -> Form:
    """Read the notation. Raises FormError."""
    if not isinstance(text, str):
        raise FormError("a form must be text")
    if len(text) > MOST_TEXT:
        raise FormError(f"{len(text):,} characters; the most are {MOST_TEXT:,}")
    draft = _Draft()
    for at, line in enumerate(text.replace("\r\n", "\n").translate(_HALF_WIDTH).split("\n"), 1):
        line = line.rstrip()
        if not line or line.lstrip().startswith("#"):
            continue
        if section := _SECTION.match(line):
            _section(draft, section[1].strip(), section[2], at)
            continue
        setting = _SETTING.match(line)
        if setting and (setting[1] in SETTINGS or not set(setting[1]) <= {*TONES, *LABELS, *"0123456789叠"}):
            _setting(draft, setting[1], setting[2], at, setting.start(2) + 1)
        else:
            before = draft.lines or (draft.sections[-1].lines if draft.sections else ())
            draft.lines.append(read_line(line, at, before, draft.labels))
            draft.count(draft.lines[-1:], at)
    draft.close()
    return _finish(draft)


def _finish(draft: _Draft) -> Form:
    form = draft.form
    if draft.template is not None:
        if draft.sections:
            raise FormError("lines beside 体 or 词牌, which have lines of their own; drop one of them")
        own = {
            name: getattr(form, name)
            for name in ("required", "required_at", "forbidden", "lenient", "neutral", "groups")
        }
        own["book"] = form.book if "韵" in draft.seen else draft.template.book
        own["distinct"] = form.distinct if "重字" in draft.seen else draft.template.distinct
        form = dataclasses.replace(draft.template, **own)
    else:
        if not draft.sections:
            raise FormError("it has no lines; write one such as 7a, or a name such as 体: 五绝")
        form = dataclasses.replace(form, sections=tuple(draft.sections))
        chosen = dict(form.groups)
        for label, lines in draft.labels.items():
            if len(lines) == 1 and label not in chosen:
                raise FormError(f'rhyme "{label}" is used once; give it a second line or drop it', lines[0])
    if draft.heads is not None:
        form = with_heads(form, *draft.heads)
    labels = {p.label for line in form.lines() for p in line.parts}
    for label, group in form.groups:
        if label not in labels:
            raise FormError(
                f'no line has the rhyme "{label}" of {label}={group}; add it to one', draft.seen.get("韵", 0)
            )
        rhyme_books.named_groups(form.book, group)
    return form


def with_heads(form: Form, heads: str, at: int = 0, columns: Sequence[int] = (), what: str = "form") -> Form:
    """The form with ``heads`` as first characters (藏头): of its lines if these are as many, otherwise of its clauses in order.

    at, columns, what: where they stand, for errors; no columns: one after the other from 1 on. Raises FormError.
    """
    columns = columns or range(1, len(heads) + 1)
    kept = [line for s in form.sections if s.repeats is None for line in s.lines]
    clauses = [_clauses(line) for line in kept]
    if len(heads) == len(kept):
        clauses = [found[:1] for found in clauses]
    room = sum(map(len, clauses))
    if len(heads) > room:
        raise FormError(
            f"藏头 has {len(heads)} characters, the form only {room} clauses; shorten it or add lines",
            at,
            columns[room],
            what,
        )
    rest = ((head, (at, column, what)) for head, column in zip(heads, columns, strict=True))
    places = iter(clauses)
    sections = []
    for section in form.sections:
        changed = []
        for line in section.lines:
            parts = list(line.parts)
            for place in next(places):
                if head := next(rest, None):
                    slots = (Slot("中", *head), *parts[place].slots[1:])
                    parts[place] = dataclasses.replace(parts[place], slots=slots)
            changed.append(Line(tuple(parts)))
        sections.append(dataclasses.replace(section, lines=tuple(changed)))
    return dataclasses.replace(form, sections=tuple(sections))


def _clauses(line: Line) -> list[int]:
    """The parts that begin a clause: the first, and those after a sign other than 、."""
    begins = [0] + [i + 1 for i, p in enumerate(line.parts[:-1]) if p.end not in (BOUNDARY, "、")]
    return [i for i in begins if not line.parts[i].echo]


def _section(draft: _Draft, name: str, rest: str, at: int) -> None:
    draft.close()
    known = draft.named
    if not name:
        raise FormError("a section needs a name, such as [副歌]", at)
    if rest == "重复":
        if name not in known:
            raise FormError(f"[{name}] 重复 repeats a section that is not above it", at)
        draft.add(Section(name, (), name))
        draft.count(known[name].lines, at)
        return
    if name in known:
        raise FormError(f"the section [{name}] is there already; another name, or [{name}] 重复", at)
    if not rest:
        draft.name, draft.named_at = name, at
        return
    like = _LIKE.match(rest)
    changes = None if like is None else _changes(like[2])
    if like is None or changes is None:
        raise FormError(f"after [{name}] stands nothing, 重复, or 同 and a section's name", at)
    if like[1] not in known:
        raise FormError(f"[{like[1]}] is not above; 同 takes a section that is", at)
    lines = known[like[1]].lines
    draft.count(lines, at)
    draft.add(Section(name, _relabelled(draft, lines, changes, at)))


def _changes(text: str) -> list[tuple[str, str]] | None:
    """The labels and values of ``, a=换, b=c``; None for another text."""
    before, *entries = re.split("[,，]", text)
    found = [(label.strip(), value.strip()) for label, _, value in (entry.partition("=") for entry in entries)]
    if before or any(len(label) != 1 or label not in LABELS or len(value.split()) != 1 for label, value in found):
        return None
    return found


def _relabelled(draft: _Draft, lines: Sequence[Line], changes: list[tuple[str, str]], at: int) -> tuple[Line, ...]:
    new: dict[str, str] = {}
    for label, value in changes:
        if value == "换":
            free = next((c for c in LABELS if c not in draft.labels and c not in new.values()), None)
            if free is None:
                raise FormError("more than 26 rhymes", at)
            new[label] = free
        elif len(value) == 1 and value in LABELS:
            new[label] = value
        else:
            raise FormError(f"{label}={value}: a label or 换 (another rhyme) stands there", at)
    found = []
    for line in lines:
        parts = [dataclasses.replace(p, label=new.get(p.label, p.label) if p.label else None) for p in line.parts]
        for part in parts:
            if part.label:
                draft.labels.setdefault(part.label, []).append(at)
        found.append(Line(tuple(parts)))
    return tuple(found)


def _setting(draft: _Draft, word: str, value: str, at: int, column: int) -> None:
    if word not in SETTINGS:
        near = difflib.get_close_matches(word, SETTINGS, 1, 0.3)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise FormError(f"{word[:20]} is no setting ({' '.join(SETTINGS)}){hint}", at)
    if word in draft.seen:
        raise FormError(f"{word} was given in line {draft.seen[word]}; drop one of them", at)
    draft.seen[word] = at
    if not value:
        raise FormError(f"{word}: the value is missing", at)
    form = draft.form
    if word in ("体", "词牌"):
        from cpm_gen.text.forms.named import named

        if draft.template is not None:
            raise FormError("体 and 词牌 both name a form; drop one of them", at)
        try:
            draft.template = named(value)
        except FormError as error:
            raise FormError(error.message, at) from None
    elif word == "韵":
        name, *chosen = [v for v in re.split(r"[,，\s]+", value) if v]
        form = dataclasses.replace(form, book=_at(at, rhyme_books.book_name, name))
        groups: list[tuple[str, str]] = []
        for entry in chosen:
            label, _, group = entry.partition("=")
            if len(label) != 1 or label not in LABELS or not group:
                raise FormError(f"{entry[:20]}: a rhyme is chosen as a=江阳", at)
            if label in dict(groups):
                raise FormError(f'rhyme "{label}" is chosen twice; drop one of them', at)
            _at(at, rhyme_books.named_groups, form.book, group)
            groups.append((label, group))
        form = dataclasses.replace(form, groups=tuple(groups))
    elif word == "藏头":
        runs = _words(value, word, at)
        columns = [column + begin + i for run, begin in runs for i in range(len(run))]
        draft.heads = ("".join(run for run, _ in runs), at, columns)
    elif word in ("必含", "禁用"):
        first: dict[str, int] = {}
        for w, begin in _words(value, word, at):
            first.setdefault(w, begin)
        words = tuple(first)
        places = tuple((w, (at, column + begin, "form")) for w, begin in first.items())
        form = (
            dataclasses.replace(form, required=words, required_at=places)
            if word == "必含"
            else dataclasses.replace(form, forbidden=words)
        )
    elif word == "重字":
        form = dataclasses.replace(form, distinct=_choice(word, value, {"不可": True, "可": False}, at))
    elif word == "读音":
        form = dataclasses.replace(form, lenient=_choice(word, value, {"宽": True, "严": False}, at))
    else:
        form = dataclasses.replace(form, neutral=_choice(word, value, {"可": True, "不可": False}, at))
    draft.form = form


def _at(at: int, function: Callable[..., T], *arguments: str) -> T:
    """The result of ``function``; an error of it gets the line."""
    try:
        return function(*arguments)
    except FormError as error:
        raise FormError(error.message, at) from None


def _choice(word: str, value: str, choices: dict[str, bool], at: int) -> bool:
    if value not in choices:
        raise FormError(f"{word} is {' or '.join(choices)}, not {value[:20]}", at)
    return choices[value]


def _words(value: str, word: str, at: int) -> list[tuple[str, int]]:
    """The words of a setting's value, and where each begins in it."""
    found = [(m[0], m.start()) for m in _WORD.finditer(value)]
    for w, _ in found:
        if not all(map(is_han, w)):
            raise FormError(f"{word} takes Chinese characters, not {w[:20]}", at)
        if len(w) > MOST_PART:
            raise FormError(f"{word}: {w[:10]}… has {len(w)} characters; the most are {MOST_PART}", at)
    if not found:
        raise FormError(f"{word} takes Chinese characters", at)
    return found
