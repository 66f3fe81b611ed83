"""Checks a text of verse against a form: plain text, the readings of pypinyin, no mask and no table of cpm-gen's own code.

The lists of 平水韵 are read from the file of data; which tone a character has that the book lists with both is decided here as
docs/forms.md says: the one of its reading today, or either for a few characters.
"""

import functools
import lzma
import re
from pathlib import Path

import pypinyin

import cpm_gen
from cpm_gen.text.forms.form import Form

SIGNS = "，、；：。！？"
EITHER = set("看过望听忘叹醒论教胜应思吹誉漫患跳探纵凝钿溅喷障防飏翰澜谩颇笼料评泱鞘缭嘹")
FINALS = {
    "十三辙": {
        "发花": "a ia ua",
        "梭坡": "o e uo",
        "乜斜": "ie ve",
        "一七": "i -i v er",
        "姑苏": "u",
        "怀来": "ai uai",
        "灰堆": "ei uei",
        "遥条": "ao iao",
        "油求": "ou iou",
        "言前": "an ian uan van",
        "人辰": "en in uen vn",
        "江阳": "ang iang uang",
        "中东": "eng ing ong iong ueng",
    },
    "中华通韵": {
        "啊": "a ia ua",
        "喔": "o uo",
        "鹅": "e ie ve",
        "衣": "i -i",
        "乌": "u",
        "迂": "v",
        "哀": "ai uai",
        "欸": "ei uei",
        "熬": "ao iao",
        "欧": "ou iou",
        "安": "an ian uan van",
        "恩": "en in uen vn",
        "昂": "ang iang uang",
        "英": "eng ing ueng",
        "雍": "ong iong",
        "儿": "er",
    },
}


PARTS = [  # of 词林正韵, by the groups of 平水韵; the groups of HALVED stand in two parts
    "东冬董肿送宋",
    "江阳讲养绛漾",
    "支微齐纸尾荠寘未霁",
    "鱼虞语麌御遇",
    "蟹",
    "真文轸吻震问",
    "寒删先旱潸铣翰谏霰",
    "萧肴豪筿巧皓啸效号",
    "歌哿个",
    "麻马祃",
    "庚青蒸梗迥敬径",
    "尤有宥",
    "侵寝沁",
    "覃盐咸感琰豏勘艳陷",
    "屋沃",
    "觉药",
    "质陌锡职缉",
    "物月曷黠屑叶",
    "合洽",
]
HALVED = {"佳卦": ("a ia ua", 10, 5), "灰贿泰队": ("ai uai", 5, 3), "元阮愿": ("en in uen vn", 6, 7)}


@functools.cache
def part(c: str, tone: str, group: str) -> int:
    """The part of 词林正韵 for a character in a group of 平水韵; its sound decides where the group stands in two."""
    for groups, (finals, one, other) in HALVED.items():
        if group in groups:
            known = pypinyin.pinyin(c, heteronym=True, style=pypinyin.Style.TONE3, neutral_tone_with_five=True)[0]
            toned = [r for r in known if {"1": "平", "2": "平", "3": "仄", "4": "仄"}.get(r[-1]) == tone] or known
            final = pypinyin.contrib.tone_convert.to_finals(toned[0], strict=True, v_to_u=False)
            return one if final in finals.split() else other
    return next(number for number, groups in enumerate(PARTS, 1) if group in groups)


@functools.cache
def pingshui() -> dict[str, set[tuple[str, str]]]:
    path = Path(cpm_gen.__file__).parent / "text" / "forms" / "data" / "pingshui.txt.xz"
    found: dict[str, set[tuple[str, str]]] = {}
    for line in lzma.decompress(path.read_bytes()).decode().splitlines():
        tone, name, characters = line.split()
        for c in characters:
            found.setdefault(c, set()).add(("平" if tone == "平" else "仄", name))
    return found


def readings(run: str) -> list[str]:
    """Each character's reading in its word, such as ``zhong4``; 一 and 不 without the change of speech."""
    found = pypinyin.lazy_pinyin(run, style=pypinyin.Style.TONE3, neutral_tone_with_five=True)
    assert len(found) == len(run), run
    return [{"一": "yi1", "不": "bu4"}.get(c, r) for c, r in zip(run, found, strict=True)]


def first_reading(c: str) -> str:
    """A character's first reading in the dictionary, whatever its word."""
    return pypinyin.pinyin(c, style=pypinyin.Style.TONE3, neutral_tone_with_five=True)[0][0]


def sounds(c: str, reading: str, book: str) -> set[tuple[str, str]]:
    """The tones and rhyme groups that a character has where it is read so."""
    today = {"1": "平", "2": "平", "3": "仄", "4": "仄"}.get(reading[-1])
    if book in FINALS:
        final = pypinyin.contrib.tone_convert.to_finals(reading, strict=True, v_to_u=False)
        if final == "i" and re.match("(zh|ch|sh|r|z|c|s)i", reading):
            final = "-i"
        group = next((name for name, finals in FINALS[book].items() if final in finals.split()), "")
        return {(today, group)} if today else set()
    listed = pingshui().get(c, set())
    if book == "词林正韵":
        listed = {(tone, str(part(c, tone, group))) for tone, group in listed}
    if not listed:
        return {(today, "")} if today else set()
    return {s for s in listed if s[0] == today and c not in EITHER} or listed


def violations(form: Form, text: str) -> list[str]:
    """What a text does against its form; only forms of fixed lengths without sections that repeat."""
    found: list[str] = []
    lines = text.split("\n")
    wanted = list(form.lines())
    if len(lines) != len(wanted):
        return [f"{len(lines)} lines, not {len(wanted)}"]
    rhymes: dict[str, list[set[str]]] = {}
    words: dict[str, list[str]] = {}
    before, seen = "", ""
    for line, own in zip(lines, wanted, strict=True):
        shape = "".join("字" * len(p.slots) + p.end.replace("+", "") for p in own.parts)
        if re.sub("[\u4e00-\u9fff]", "字", line) != shape:
            found.append(f"{line} has not the shape {shape}")
            continue
        read = [
            s for run in re.split(f"([{SIGNS}])", line) for s in (readings(run) if run and run not in SIGNS else run)
        ]
        at = 0
        for part in own.parts:
            text_of = line[at : at + len(part.slots)]
            if part.echo:
                if before[-len(text_of) :] != text_of:
                    found.append(f"{text_of} does not repeat {before}")
            else:
                for offset, (c, slot) in enumerate(zip(text_of, part.slots, strict=True)):
                    if slot.given:
                        found += [f"{c} is not {slot.given}"] * (c != slot.given)
                    elif slot.tone != "中" and slot.tone not in {t for t, _ in sounds(c, read[at + offset], form.book)}:
                        found.append(f"{line}: {c} ({read[at + offset]}) is not {slot.tone}")
                if form.distinct:
                    found += [f"{c} stands twice" for c in text_of if c in seen]
                    found += [f"{text_of} holds one twice"] * (len(set(text_of)) < len(text_of))
                seen += text_of
                if part.label:
                    tone, word = part.slots[-1].tone, text_of[-1]
                    last = sounds(word, read[at + len(text_of) - 1], form.book)
                    rhymes.setdefault(part.label, []).append({g for t, g in last if g and tone in ("中", t)})
                    if part.same and word != words[part.label][0]:
                        found.append(f"{word} is not {words[part.label][0]} again")
                    if not part.same and word in words.get(part.label, []):
                        found.append(f"{word} rhymes with itself")
                    words.setdefault(part.label, []).append(word)
            before = text_of
            at += len(text_of) + len(part.end.replace("+", ""))
    for label, name in form.groups:
        found += [f"{words[label]} ({label}) are not of {name}"] * (not set.intersection({name}, *rhymes[label]))
    for label, groups in rhymes.items():
        if not set.intersection(*groups):
            found.append(f"{words[label]} ({label}) do not rhyme")
    found += [f"the text lacks {w}" for w in form.required if w not in text]
    found += [f"{w} is not wanted" for w in form.forbidden if w in text]
    return found
