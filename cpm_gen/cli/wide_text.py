"""Text in columns of a terminal, where a Chinese character takes two."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# A word of Latin letters with the signs beside it, a space, or one other character with the closing punctuation after it, which begins
# no line.
_UNIT = re.compile(r" +|[（“「《]*(?:[!-~…–—×→]+|[^ !-~])[，。；：！？、）”」》…]*")


def width(text: str) -> int:
    """How many columns ``text`` takes."""
    return sum(_columns(character) for character in text)


def pad(text: str, columns: int) -> str:
    """``text`` with spaces after it, up to ``columns``."""
    return text + " " * (columns - width(text))


def pad_left(text: str, columns: int) -> str:
    """``text`` with spaces before it, up to ``columns``."""
    return " " * (columns - width(text)) + text


def cut(text: str, columns: int) -> str:
    """The beginning of ``text`` that fits into ``columns``."""
    used = 0
    for at, character in enumerate(text):
        used += _columns(character)
        if used > columns:
            return text[:at]
    return text


def wrap(text: str, columns: int) -> list[str]:
    """``text`` as lines of at most ``columns``, divided at spaces and between Chinese characters. A longer word has a line of its own."""
    lines, line = [], ""
    for unit in _units(" ".join(text.split())):
        if line and width(line + unit.rstrip()) > columns:
            lines.append(line.rstrip())
            line = ""
        line = (line + unit) if line else unit.lstrip()
    return [*lines, line.rstrip()] if line else lines or [""]


def _units(text: str) -> Iterator[str]:
    at = 0
    while match := _UNIT.match(text, at):
        yield match[0]
        at = match.end()
    if at < len(text):
        yield text[at:]


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
