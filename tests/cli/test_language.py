"""The command line in Chinese where the locale is Chinese, and in English elsewhere."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpm_gen.cli.main import build_parser
from cpm_gen.cli.wide_text import cut, pad, width, wrap
from cpm_gen.config.fields import declared
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.config.resolve import resolve
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.errors import ConfigError
from cpm_gen.translation import localized
from tests.cli.conftest import Run

COLUMNS = 80
CHINESE = re.compile("[一-鿿]")
ENGLISH = re.compile(
    r"(?<![-\w])(the|of|and|or|with|is|are|not|must|to|in)\b(?![-/])"
)  # words that no name or command has alone


def commands() -> Iterator[tuple[str, ...]]:
    def below(parser: argparse.ArgumentParser, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield words
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, command in action.choices.items():
                    yield from below(command, (*words, name))

    return below(build_parser(), ())


def cpm_gen(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES")}
    return subprocess.run(
        [sys.executable, "-m", "cpm_gen", *words],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        env=kept | environment,
        check=False,
    )


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    monkeypatch.setenv("COLUMNS", str(COLUMNS))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_the_help_of_every_command_is_chinese_and_fits_the_terminal(
    words: tuple[str, ...], run: Run, chinese: None
) -> None:
    code, out, _ = run(*words, "--help")
    assert code == 0
    about = out[out.index("\n\n") :]  # the usage has names alone
    assert ENGLISH.findall(about) == []
    assert [line for line in about.splitlines() if width(line) > COLUMNS and CHINESE.search(line)] == []
    assert out.startswith("用法: cpm-gen")


def test_without_arguments_the_help_is_printed(run: Run, chinese: None) -> None:
    code, out, _ = run()
    assert code == 0
    assert "写歌词：一行一行" in out


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "不认识的参数：--tempersture；是不是 --temperature？"),
        ({"LANG": "C.UTF-8"}, "unrecognized arguments: --tempersture; did you mean --temperature?"),
        ({}, "unrecognized arguments: --tempersture; did you mean --temperature?"),
    ],
)
def test_a_process_speaks_the_language_of_its_locale(environment: dict[str, str], words: str) -> None:
    done = cpm_gen("lyric", "--tempersture", "1", **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lyrik"], "没有 'lyrik' 这个选择"),
        (["convert", "a", "b"], "还要写：--to"),
        (["lyric", "春", "--top-p", "3"], "--top-p：top_p 须在 0 到 1 之间，不是 3.0"),
        (["lyric", "春", "--top-k", "many"], "--top-k：top_k 须是整数，不是 'many'"),
        (["lyric", "春", "--model", "/nowhere"], "/nowhere：没有这个文件夹"),
        (["lyric", "--prompt-file", "/nowhere"], "/nowhere：没有这个文件或文件夹"),
        (["lyric", "--config", "/nowhere.yaml"], "/nowhere.yaml：没有这个文件或文件夹"),
        (["lyric", "--form", "七觉"], "体式：没有 七觉 这种体式；是不是 七绝 或 "),
        (["lyric", "--form", "7a\n5"], "体式第 1 行：韵“a”只用了一次"),
        (["form", "show", "7x9"], "体式第 1 行第 "),
        (["lyric", "春", "--form", "七绝", "--stop", "。"], "按体式写，写满就完；请去掉 stop"),
        (["inspect", "/nowhere"], "/nowhere：没有这个文件夹"),
        (["download", "gpt2-chinese-lyrik"], "是不是 gpt2-chinese-lyric？"),
        (["serve", "--host", "0.0.0.0"], "host 0.0.0.0 能从别的机器访问，却没有 API 密钥"),
        (["score", "春", "--prompt", "秋"], "开头只要写一次"),
    ],
)
def test_mistakes_are_named_in_chinese(words: list[str], said: str, run: Run, chinese: None) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert said in err
    assert err.startswith("cpm-gen") and err.count("\n") == 1
    assert ENGLISH.findall(err) == []


def test_a_story_with_a_mistake(run: Run, chinese: None, tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("[前提]\n雪夜。\n[前言]\n", encoding="utf-8")
    code, _, err = run("novel", "话说", "--story", str(tmp_path / "story.txt"))
    assert code == 2
    assert "故事第 3 行第 2 字：没有" in err
    assert ENGLISH.findall(err) == []


@pytest.mark.parametrize("group", [ModelOptions, SamplingParams, TextOptions, ServeOptions])
@pytest.mark.parametrize("value", ["x", "-7", "1e9", "", "0.5"])
def test_a_wrong_value_of_any_setting_is_named_in_chinese(group: type, value: str, chinese: None) -> None:
    for name in declared(group):
        if name in ("story", "keep_lines"):  # files
            continue
        try:
            resolve(flags={name: value})
        except ConfigError as error:
            said = localized(str(error))
            assert CHINESE.search(said), said
            assert ENGLISH.findall(said) == [], said


def test_what_programs_read_stays_english(run: Run, chinese: None, tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text("白日依山尽，黄河入海河。\n", encoding="utf-8")
    poem = str(tmp_path / "poem.txt")
    code, out, _ = run("form", "check", "五绝", poem, "--json")
    assert code == 1
    assert "河 stands twice" in [fault["message"] for fault in json.loads(out)["faults"]]
    _, out, _ = run("form", "check", "五绝", poem)
    assert "第 1 行第 11 字：河 用了两次\n" in out
    _, out, _ = run("inspect", "--json")
    assert json.loads(out)["format"] == "Megatron shards"
    _, out, _ = run("inspect")
    assert "格式        Megatron 分片\n" in out


def test_the_table_of_doctor_is_aligned(run: Run, chinese: None) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    assert ENGLISH.findall(re.sub(r"pip install.*|\(/.*?\)", "", out)) == []
    findings = [line for line in out.splitlines() if re.match(r"\S.*(ok|[-!]) ", line) and not line.startswith("模型 ")]
    assert len(findings) > 10
    for line in findings:
        assert cut(line, 13).rstrip() == line[: len(cut(line, 13))].rstrip()
        assert line[len(cut(line, 14)) :].split(" ")[0] in ("ok", "-", "!")


def test_lines_are_divided_between_chinese_characters_and_not_before_a_comma() -> None:
    text = "窗口满了前移多少词元，默认是一半（--window-hop N）。步长小，看得见的多。"
    lines = wrap(text, 20)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(width(line) <= 20 for line in lines)
    assert not any(line[0] in "，。）" for line in lines)
    assert wrap("a longword-than-fits b", 8) == ["a", "longword-than-fits", "b"]
    assert wrap("", 8) == [""]


def test_columns_of_wide_characters() -> None:
    assert (width("词元 a"), pad("词元", 6), cut("词元a", 3), cut("ab", 3)) == (6, "词元  ", "词", "ab")
