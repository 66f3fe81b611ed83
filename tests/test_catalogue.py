"""The Chinese catalogue: complete, and a translated message says the same with the same values."""

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from babel.messages.pofile import read_po

from cpm_gen.catalogue import Catalogue, catalogue, read_entries
from cpm_gen.translation import language_of, language_of_request, translate

ROOT = Path(__file__).parents[1]
TOOL: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "messages"))
PLACE = re.compile(r"\{([a-z_][a-z0-9_]*)(?:![tpl])?\}")
SAME_IN_CHINESE = {"null", "hugging face"}


@pytest.fixture(scope="module")
def entries() -> dict[str, str]:
    return dict(read_entries(TOOL["CATALOGUE"].read_text(encoding="utf-8")))


def test_every_message_of_the_code_has_a_translation_and_every_translation_a_message(entries: dict[str, str]) -> None:
    assert TOOL["faults"](TOOL["messages"](), entries) == []


@pytest.mark.parametrize(
    ("wanted", "translations", "fault"),
    [
        ({"no model": "a.py"}, {}, "a.py: no translation: 'no model'"),
        ({}, {"no model": "没有模型"}, "not in the code: 'no model'"),
        (
            {"no {name} here": "a.py"},
            {"no {name} here": "没有 {file}"},
            "has the places ['name'], its translation ['file']",
        ),
        ({"no {name} here": "a.py"}, {"no {name} here": "没有"}, "has the places ['name'], its translation []"),
    ],
)
def test_the_check_finds_what_is_wrong(wanted: dict[str, str], translations: dict[str, str], fault: str) -> None:
    (found,) = TOOL["faults"](wanted, translations)
    assert fault in found


def test_babel_reads_the_same_entries(entries: dict[str, str]) -> None:
    with TOOL["CATALOGUE"].open("rb") as file:
        assert {m.id: m.string for m in read_po(file) if m.id} == entries


def test_translations_are_chinese(entries: dict[str, str]) -> None:
    assert [m for m, t in entries.items() if not re.search("[一-鿿：]", t)] == sorted(SAME_IN_CHINESE & set(entries))


def test_every_message_is_found_by_its_text_with_its_values(entries: dict[str, str]) -> None:
    wrong = []
    for message, translation in entries.items():
        values = {name: f"V{number}x" for number, name in enumerate(dict.fromkeys(PLACE.findall(message)))}
        text = PLACE.sub(lambda place: values[place[1]], message)  # noqa: B023
        shown = PLACE.sub(lambda place: values[place[1]], translation)  # noqa: B023
        found = translate(text, "zh_CN")
        if found.replace(" ", "") != shown.replace(" ", ""):
            wrong.append((message, found))
    assert wrong == []


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("--top-p: top_p must be from 0 to 1, not 2.0", "--top-p：top_p 须在 0 到 1 之间，不是 2.0"),
        ("unknown setting 'topp'; did you mean 'top_p'?", "没有 'topp' 这项设置；是不是 'top_p'？"),
        (
            'form, line 3: rhyme "b" is used once; give it a second line or drop it',
            "体式第 3 行：韵“b”只用了一次；请再写一行押它，或者去掉它",
        ),
        ("form, line 2, column 4: 「 is not closed; 」 is missing", "体式第 2 行第 4 字：「 没有关上，缺少 」"),
        (
            "text: the file is empty: damaged or truncated; copy or download it again",
            "text：文件是空的：损坏或不完整；请重新复制或下载",
        ),
        ("line 1, column 1: 5 characters stand here, not 7", "第 1 行第 1 字：这里应有 5 个字，有 7 个"),
        ("line 1, column 1: 4 to 6 characters stand here, not 7", "第 1 行第 1 字：这里应有 4 到 6 个字，有 7 个"),
        ("a sentence that no code says", "a sentence that no code says"),
        ("", ""),
    ],
)
def test_a_message_behind_its_place_and_with_a_hint(message: str, shown: str) -> None:
    assert translate(message, "zh_CN") == shown
    assert translate(message, "en") == message


def test_values_are_not_translated_unless_they_are_messages() -> None:
    found = Catalogue({"{path}: no {kind}": "{path}：没有{kind!t}", "text": "文字"})
    assert found.translate("text: no text") == "text：没有文字"


def test_a_hostile_text_takes_little_work() -> None:
    pieces = [
        message for message, _ in read_entries(TOOL["CATALOGUE"].read_text(encoding="utf-8")) if message[:1] in ";,:"
    ]
    text = "must be " + " ".join(PLACE.sub("x", piece) for piece in pieces) * 4
    known: dict[str, tuple[int, str] | None] = {}
    catalogue("zh_CN")._find(text, known)
    assert len(known) < 20 * len(text)


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh_CN"),
        ({"LANG": "zh_TW.UTF-8"}, "zh_CN"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN"}, "zh_CN"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh_CN"),
        ({"LANG": "de_DE.UTF-8", "LANGUAGE": "de:zh_CN:en"}, "zh_CN"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en:zh"}, "en"),
        ({"LANG": "C.UTF-8", "LANGUAGE": "zh_CN"}, "en"),
        ({"LANGUAGE": "zh_CN"}, "en"),
        ({"LANG": "fr_FR.UTF-8"}, "en"),
    ],
)
def test_the_language_of_an_environment(environment: dict[str, str], language: str) -> None:
    assert language_of(environment) == language


@pytest.mark.parametrize(
    ("accepted", "language"), [("", "en"), ("zh-CN,zh;q=0.9", "zh_CN"), (" zh", "zh_CN"), ("en,zh", "en")]
)
def test_the_language_of_a_request(accepted: str, language: str) -> None:
    assert language_of_request(accepted) == language


@pytest.mark.parametrize("part", ["a b: ", "; did you mean ", "must be ", ", not ", "form, line 3: ", "; "])
def test_a_text_that_looks_like_many_messages_is_answered(part: str) -> None:
    text = (part * 4_000)[:3_990] + "a b c"
    assert translate(text, "zh_CN")
