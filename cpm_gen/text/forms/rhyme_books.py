"""Rhyme books: the tone and the rhyme group of a character, by its reading or by the book's list.

平水韵 (1252) lists characters in 106 groups, each of one tone. 词林正韵 (1821) joins these to 19, some of them halved by their sound. The
others are tables of the finals of today's readings: 中华新韵 (2005), 中华通韵 (2019), 十三辙.

A character that the old books list with both tones has, read strictly, the one of its commonest reading today, but for those of
``BOTH``, which poets use with either in one meaning.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from cpm_gen.config.options import RhymeBook as Book
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.readings import NEUTRAL, PARTICLES, data_lines, readings

LEVEL, OBLIQUE = "平", "仄"
BOTH = frozenset("看过望听忘叹醒论教胜应思吹誉漫患跳探纵凝钿溅喷障防飏翰澜谩颇笼料评泱鞘缭嘹")

Sounds = frozenset[tuple[str, str]]  # (平 or 仄, name of a rhyme group or "": rhymes with nothing)

ALIASES = {
    "平水": "平水韵",
    "词林": "词林正韵",
    "新韵": "中华新韵",
    "通韵": "中华通韵",
    "十三辙": "十三辙",
}
_THIRTEEN = {
    "发花": "a ia ua",
    "梭坡": "o e uo",
    "乜斜": "ie ve",
    "一七": "i -i v er",
    "姑苏": "u",
    "怀来": "ai uai",
    "灰堆": "ei uei",
    "遥条": "ao iao",
    "油求": "ou iu",
    "言前": "an ian uan van",
    "人辰": "en in un vn",
    "江阳": "ang iang uang",
    "中东": "eng ing ong iong ueng",
}
_GENERAL = {  # 中华通韵
    "啊": "a ia ua",
    "喔": "o uo",
    "鹅": "e ie ve",
    "衣": "i -i",
    "乌": "u",
    "迂": "v",
    "哀": "ai uai",
    "欸": "ei uei",
    "熬": "ao iao",
    "欧": "ou iu",
    "安": "an ian uan van",
    "恩": "en in un vn",
    "昂": "ang iang uang",
    "英": "eng ing ueng",
    "雍": "ong iong",
    "儿": "er",
}
_NEW = {  # 中华新韵
    "麻": "a ia ua",
    "波": "o e uo",
    "皆": "ie ve",
    "开": "ai uai",
    "微": "ei uei",
    "豪": "ao iao",
    "尤": "ou iu",
    "寒": "an ian uan van",
    "文": "en in un vn",
    "唐": "ang iang uang",
    "庚": "eng ing ong iong ueng",
    "齐": "i v er",
    "支": "-i",
    "姑": "u",
}
_MODERN = {"十三辙": _THIRTEEN, "中华通韵": _GENERAL, "中华新韵": _NEW}
# 词林正韵: the groups of 平水韵 in each of its 19; those of _HALVES stand in two, and the final decides
_JOINED = {
    "第一部": "东冬董肿送宋",
    "第二部": "江阳讲养绛漾",
    "第三部": "支微齐纸尾荠寘未霁",
    "第四部": "鱼虞语麌御遇",
    "第五部": "蟹",
    "第六部": "真文轸吻震问",
    "第七部": "寒删先旱潸铣翰谏霰",
    "第八部": "萧肴豪筿巧皓啸效号",
    "第九部": "歌哿个",
    "第十部": "麻马祃",
    "第十一部": "庚青蒸梗迥敬径",
    "第十二部": "尤有宥",
    "第十三部": "侵寝沁",
    "第十四部": "覃盐咸感琰豏勘艳陷",
    "第十五部": "屋沃",
    "第十六部": "觉药",
    "第十七部": "质陌锡职缉",
    "第十八部": "物月曷黠屑叶",
    "第十九部": "合洽",
}
_HALVES = {
    "佳卦": (("第十部", "a ia ua"), "第五部"),
    "灰贿泰队": (("第五部", "ai uai"), "第三部"),
    "元阮愿": (("第六部", "en in un vn"), "第七部"),
}


@dataclass(frozen=True)
class RhymeBook:
    """Tone and rhyme of characters in one book.

    groups: the names of its rhyme groups. listed: of the old books, the sounds of each character.
    """

    name: Book
    groups: tuple[str, ...]
    listed: Mapping[str, Sounds] | None

    def sounds(
        self,
        character: str,
        reading: str | None,
        *,
        lenient: bool = False,
        neutral: bool = False,
        settled: bool = False,
    ) -> Sounds:
        """The tones and groups of a character that is read ``reading``, such as ``zhong4``; None: not known.

        lenient: all readings. neutral: a character in the neutral tone has the rhyme of its final; otherwise it has no sound.
        settled: a word settles this reading of a particle; by itself a particle has no rhyme in the books of today.
        """
        if self.listed is None:
            found = readings().get(character, ()) if lenient else (reading,)
            rhymes = settled or neutral or character not in PARTICLES
            return frozenset(s for r in found if r for s in _modern_sounds(self.name, r, neutral, rhymes))
        listed = self.listed.get(character)
        modern = None if reading is None or reading.endswith(NEUTRAL) else tone_of(reading)
        if not listed:
            return frozenset({(modern, "")} if modern else ())
        if lenient or character in BOTH or modern is None:
            return listed
        return frozenset(s for s in listed if s[0] == modern) or listed


def tone_of(reading: str) -> str:
    """平 for the first and second tone of today, 仄 for the third and fourth."""
    return LEVEL if reading[-1] in "12" else OBLIQUE


def final_of(reading: str) -> str:
    """The final of a syllable: ``zhong4`` has ``ong``, ``zhi1`` has ``-i``, ``yuan2`` has ``van``; empty where there is none."""
    syllable = reading[:-1]
    if syllable in ("m", "n", "ng", "hm", "hng"):
        return ""
    initial = next((i for i in ("zh", "ch", "sh") if syllable.startswith(i)), syllable[0])
    rest = syllable[len(initial) :] if initial in _INITIALS else syllable
    if initial == "y":
        rest = {
            "i": "i",
            "in": "in",
            "ing": "ing",
            "u": "v",
            "ue": "ve",
            "uan": "van",
            "un": "vn",
            "o": "o",
            "ong": "iong",
        }.get(rest, "iu" if rest == "ou" else "ie" if rest == "e" else f"i{rest}")
    elif initial == "w":
        rest = {"u": "u", "o": "uo", "ei": "uei", "en": "un", "eng": "ueng"}.get(rest, f"u{rest}")
    elif initial in ("zh", "ch", "sh", "r", "z", "c", "s") and rest == "i":
        rest = "-i"
    elif initial in ("j", "q", "x") and rest.startswith("u"):
        rest = f"v{rest[1:]}"
    return {"ui": "uei", "uen": "un", "iou": "iu", "ueng": "ueng"}.get(rest, rest)


_INITIALS = frozenset([*"bpmfdtnlgkhjqxrzcsyw", "zh", "ch", "sh"])


@functools.cache
def _group_of_final(book: str) -> Mapping[str, str]:
    return {final: group for group, finals in _MODERN[book].items() for final in finals.split()}


def _modern_sounds(book: str, reading: str, neutral: bool, rhymes: bool) -> list[tuple[str, str]]:
    group = _group_of_final(book).get(final_of(reading), "")
    if reading.endswith(NEUTRAL):
        return [(LEVEL, group), (OBLIQUE, group)] if neutral else []
    tone = tone_of(reading)
    return [(tone, group if rhymes else "")]


@functools.cache
def _pingshui() -> Mapping[str, tuple[tuple[str, str], ...]]:
    """Each character's groups as (tone, name)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for tone, name, characters in data_lines("pingshui"):
        for c in characters:
            found.setdefault(c, []).append((LEVEL if tone == "平" else OBLIQUE, name))
    return {c: tuple(groups) for c, groups in found.items()}


def _joined(character: str, tone: str, name: str) -> str:
    """The group of 词林正韵 for a character's group of 平水韵."""
    for names, ((group, finals), other) in _HALVES.items():
        if name in names:
            read = readings().get(character, ())
            of_tone = [r for r in read if not r.endswith(NEUTRAL) and tone_of(r) == tone] or list(read)
            return group if of_tone and final_of(of_tone[0]) in finals.split() else other
    return next(group for group, names in _JOINED.items() if name in names)


@functools.cache
def rhyme_book(name: Book) -> RhymeBook:
    """The book of that name."""
    if name in _MODERN:
        return RhymeBook(name, tuple(_MODERN[name]), None)
    listed = _pingshui()
    if name == "平水韵":
        groups = tuple(dict.fromkeys(g for _, g in (s for found in listed.values() for s in found)))
        return RhymeBook(name, groups, {c: frozenset(found) for c, found in listed.items()})
    joined = {c: frozenset((tone, _joined(c, tone, group)) for tone, group in found) for c, found in listed.items()}
    return RhymeBook(name, tuple(_JOINED), joined)


def book_name(name: str) -> Book:
    """The book that ``name`` means: its name, or without 韵, 正韵, 中华. Raises FormError."""
    known: dict[str, Book] = {b: b for b in get_args(Book)}
    found = known.get(name) or known.get(ALIASES.get(name, ""))
    if found is None:
        raise FormError(f"there is no rhyme book {name[:20]}; there are {' '.join(known)}")
    return found


def named_groups(book: Book, name: str) -> tuple[str, ...]:
    """The groups of a book that ``name`` means: a group's name, or for the books of today one of 十三辙. Raises FormError."""
    groups = rhyme_book(book).groups
    if name in groups:
        return (name,)
    if book in _MODERN and name in _THIRTEEN:
        finals = set(_THIRTEEN[name].split())
        return tuple(group for group, own in _MODERN[book].items() if finals & set(own.split()))
    listed = " ".join(groups[:30]) + (" …" if len(groups) > 30 else "")
    raise FormError(f"{book} has no rhyme group {name[:20]}; it has {listed}")
