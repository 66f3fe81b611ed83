"""The notation of a story: headings in brackets, with prose under them.

::

    扫描: 200
    预算: 150

    [前提]
    林冲被高俅陷害，刺配沧州。
    [人物]
    林冲是八十万禁军教头。陆谦是他的旧友。
    [笔记 深3]
    这一夜风雪很大。
    [设定: 青松寨, 山寨]
    青松寨在山上，寨主姓王。
    [设定 序2 常在: 草料场]
    草料场在城东十五里。
    [第一回 风雪山神庙] 2000-2600字
    林冲到草料场，夜里大雪压倒了草厅。

A line that begins with ``[`` is a heading. Lines with ``扫描`` and ``预算`` stand before the first heading. A
heading with a length behind it is a chapter; the line under it is its plot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cpm_gen.config.text_files import unix_lines
from cpm_gen.text.stories.story import MOST_CHARS, MOST_NUMBER, SECTIONS, SEPARATORS, Chapter, Lore, Story, StoryError

_SETTINGS = {"扫描": "scan", "预算": "budget"}
_HEADINGS = "[前提], [记忆], [人物], [笔记 深3] or [设定: 青松寨, 山寨]"
_EXAMPLE = "[第一回 风雪山神庙] 2000-2600字"
_CHAPTER = re.compile(r"\[([^\[\]]*)\]\s*([0-9]{1,6})(?:\s*[-–—～~至]\s*([0-9]{1,6}))?\s*字")
_NUMBER = re.compile(r"[0-9]{1,6}")


def _wrong(line: int, column: int, message: str) -> StoryError:
    return StoryError(f"story, line {line}, column {column}: {message}")


@dataclass
class _Section:
    """A heading with its options and keys, and the lines under it. lengths: of a chapter, whose title is the word."""

    line: int
    word: str
    options: dict[str, int]
    keys: tuple[str, ...]
    text: str = ""
    lengths: tuple[int, int] | None = None


def parse(text: str) -> Story:
    """The story of a notation. Raises StoryError with line and column."""
    if len(text) > MOST_CHARS:
        raise StoryError(f"the story has {len(text):,} characters; the most is {MOST_CHARS:,}")
    lines = unix_lines(text).split("\n")
    first = next((n for n, line in enumerate(lines) if line.startswith("[")), len(lines))
    found: dict[str, Any] = dict(_settings(lines[:first]))
    lore: list[Lore] = []
    outline: list[Chapter] = []
    titles: dict[str, int] = {}  # the line of each chapter
    for section in _sections(lines, first):
        if not section.text and section.lengths is None:
            raise _wrong(section.line, 1, f"{section.word} is empty; write prose under it, or leave the heading out")
        try:
            if section.lengths is not None:
                if (first := titles.setdefault(section.word, section.line)) != section.line:
                    raise StoryError(f"{section.word} is the title of line {first}, too; give each chapter its own")
                outline.append(Chapter(section.word, *section.lengths, section.text))
                continue
            if section.word == "设定":
                options = section.options
                lore.append(Lore(section.keys, section.text, options.get("序", 0), "常在" in options))
                continue
        except StoryError as error:
            raise _wrong(section.line, 1, str(error)) from None
        name = SECTIONS[section.word]
        if name in found:
            raise _wrong(section.line, 2, f"{section.word} is given twice; put its text under one heading")
        found[name] = section.text
        if "深" in section.options:
            found["depth"] = section.options["深"]
    try:
        return Story(**found, lore=tuple(lore), outline=tuple(outline))
    except StoryError as error:
        raise _wrong(1, 1, str(error)) from None


def _settings(lines: list[str]) -> Iterator[tuple[str, int]]:
    """Names and values of the settings before the first heading."""
    seen = set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        column = len(line) - len(line.lstrip()) + 1
        if line.lstrip()[0] in "【［":
            raise _wrong(number, column, f"a heading stands in half-width brackets: {_HEADINGS}")
        word, colon, value = line.replace("：", ":", 1).partition(":")
        name = _SETTINGS.get(word.strip())
        if name is None or not colon:
            raise _wrong(number, column, f"text before the first heading; begin with {_HEADINGS}, or 扫描: 200")
        if name in seen:
            raise _wrong(number, column, f"{word.strip()} is given twice; drop one of them")
        seen.add(name)
        yield name, _number(value.strip(), number, len(word) + 2, word.strip())


def _sections(lines: list[str], first: int) -> Iterator[_Section]:
    at = first
    while at < len(lines):
        section = _heading(lines[at], at + 1)
        end = next((n for n in range(at + 1, len(lines)) if lines[n].startswith("[")), len(lines))
        section.text = "\n".join(line.rstrip(" \t") for line in lines[at + 1 : end]).strip()
        if section.text.startswith("["):  # it stood behind a space
            raise _wrong(at + 2, 1, "a heading begins its line; leave out the space before [")
        yield section
        at = end


def _heading(line: str, number: int) -> _Section:
    stripped = line.rstrip()
    if chapter := _CHAPTER.fullmatch(stripped):
        least = int(chapter[2])
        return _Section(number, chapter[1].strip(), {}, (), lengths=(least, int(chapter[3] or least)))
    head, bracket, rest = stripped.partition("]")
    if bracket and rest:
        raise _wrong(
            number, len(head) + 2, f"{rest.strip()[:20]}: behind ] may stand the length of a chapter: {_EXAMPLE}"
        )
    if not bracket:
        raise _wrong(number, len(stripped) + 1, f"a line that begins with [ is a heading and ends with ]: {_HEADINGS}")
    head, colon, keys = stripped[1:-1].replace("：", ":", 1).partition(":")
    words = [(found.start() + 2, found[0]) for found in re.finditer(r"\S+", head)]
    column, word = words[0] if words else (2, "")
    if word not in (*SECTIONS, "设定"):
        raise _wrong(
            number,
            column,
            f"there is no heading {word[:20] or 'without a word'}; there are {_HEADINGS}, and chapters: {_EXAMPLE}",
        )
    allowed = {"笔记": ("深",), "设定": ("序", "常在")}.get(word, ())
    options: dict[str, int] = {}
    for place, option in words[1:]:
        name = next((a for a in allowed if option.startswith(a)), None)
        if name is None or name in options:
            right = " and ".join({"深": "深3", "序": "序2"}.get(a, a) for a in allowed) or "nothing"
            raise _wrong(number, place, f"{option[:20]}: behind {word} may stand {right}, each once")
        rest = option.removeprefix(name)
        if name == "常在" and rest:
            raise _wrong(number, place, f"{option[:20]}: write 常在, or leave it out")
        options[name] = 0 if name == "常在" else _number(rest, number, place, name)
    if word != "设定" and colon:
        raise _wrong(number, len(head) + 2, f"{word} has no keys; end the heading with ] before the colon")
    if word == "设定" and not keys.strip():
        raise _wrong(number, len(stripped), "设定 needs keys: [设定: 青松寨, 山寨]")
    found = tuple(key.strip() for key in re.split(f"[{SEPARATORS}]", keys)) if keys.strip() else ()
    if not all(found):
        raise _wrong(number, len(head) + 3, "an empty key; write a word between two commas, or drop one")
    return _Section(number, word, options, tuple(dict.fromkeys(found)))


def _number(value: str, line: int, column: int, word: str) -> int:
    if not _NUMBER.fullmatch(value) or int(value) > MOST_NUMBER:
        raise _wrong(
            line, column, f"{word} takes a whole number from 0 to {MOST_NUMBER:,}, not {value[:20] or 'nothing'}"
        )
    return int(value)
