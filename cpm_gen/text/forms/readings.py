"""How characters are read today: tables of the project pypinyin, and the reading of a character in its word."""

from __future__ import annotations

import functools
import lzma
from collections.abc import Iterator, Mapping
from importlib.resources import files

NEUTRAL = "5"
# particles that are read without a tone; by themselves they are no rhymes, whatever readings a dictionary gives besides
PARTICLES = frozenset("的了着吗呢吧啊呀嘛哪啦么们地得")


def data_lines(name: str) -> Iterator[list[str]]:
    """The lines of a table in ``data/``, divided at spaces."""
    content = (files("cpm_gen.text.forms") / "data" / f"{name}.txt.xz").read_bytes()
    for line in lzma.decompress(content).decode().splitlines():
        yield line.split(" ")


@functools.cache
def readings() -> Mapping[str, tuple[str, ...]]:
    """The readings of each character, the commonest first: ``重``: ``zhong4``, ``chong2``, …; tone 5 is the neutral one."""
    return {character: tuple(found) for character, *found in data_lines("readings")}


@functools.cache
def words() -> Mapping[str, tuple[str, ...]]:
    """Words of two to four characters, one of which has several readings, with the readings in that word."""
    return {word: tuple(found) for word, *found in data_lines("words")}


def read(text: str) -> list[str | None]:
    """The reading of each character of ``text``: that of the longest known word from the left, else its first; None: not known."""
    known, single = words(), readings()
    found: list[str | None] = []
    at = 0
    while at < len(text):
        for length in (4, 3, 2):
            word = known.get(text[at : at + length]) if at + length <= len(text) else None
            if word:
                found += word
                at += length
                break
        else:
            first = single.get(text[at])
            found.append(first[0] if first else None)
            at += 1
    return found


def settled(text: str, at: int, reading: str | None) -> bool:
    """Whether a known word around a particle of ``text`` has this reading of it, with a tone, as 大地 and 目的 have."""
    if text[at] not in PARTICLES or reading is None or reading.endswith(NEUTRAL):
        return False
    known = words()
    for begin in range(max(0, at - 3), at + 1):
        for end in range(at + 1, begin + 5):
            word = known.get(text[begin:end])
            if word and word[at - begin] == reading:
                return True
    return False


@functools.cache
def word_beginnings() -> Mapping[str, tuple[str, ...]]:
    """For each beginning of a word of :func:`words`, the words that begin so."""
    found: dict[str, list[str]] = {}
    for word in words():
        for at in range(1, len(word)):
            found.setdefault(word[:at], []).append(word)
    return {beginning: tuple(begun) for beginning, begun in found.items()}
