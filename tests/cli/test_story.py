"""``--story``: a file of a story, from every door of the command line."""

import io
import json
import os
import sys
from pathlib import Path

import pytest

from cpm_gen.cli.main import main
from tests.cli.conftest import Run
from tests.embedded import LIMIT, POSITIONS

STORY = "[前提]\n林冲被高俅陷害。\n[设定: 江]\n江在城东。\n"
WORDS = ("novel", "江上，", "--max-new-tokens", "5", "--seed", "1", "--json")


@pytest.fixture
def story(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(STORY, encoding="utf-8")
    return path


def written(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main((*WORDS, *words)) == 0
    return json.loads(capsys.readouterr().out)


def test_a_story_is_a_file_of_the_flag_of_settings_and_of_the_environment(story, tmp_path, capsys, monkeypatch):
    by_flag = written(capsys, "--story", str(story))
    assert by_flag["in_sight"] == ["前提", "设定: 江"]
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"story: {story}\n", encoding="utf-8")
    notation = tmp_path / "notation.yaml"
    notation.write_text("story: |\n" + "".join(f"  {line}\n" for line in STORY.splitlines()), encoding="utf-8")
    for words in (("--config", str(settings)), ("--config", str(notation)), ("--story", STORY)):
        assert written(capsys, *words)["token_ids"] == by_flag["token_ids"]
    monkeypatch.setenv("CPM_GEN_STORY", str(story))
    assert written(capsys)["token_ids"] == by_flag["token_ids"]
    assert written(capsys, "--decoder", "recompute")["token_ids"] == by_flag["token_ids"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"", "story, line 1, column 1: the story is empty; begin with a heading such as [前提]"),
        ("[前題]\n甲\n".encode(), "story, line 1, column 2: there is no heading 前題"),
        (b"\xff\xfa", "not UTF-8 at byte 0"),
        ("[前提]\n".encode() + "雪".encode() * POSITIONS, f"tokens; a window of {LIMIT:,} has room for {LIMIT // 2}"),
    ],
)
def test_a_story_that_cannot_be_used_is_one_line(tmp_path, capsys, content, message):
    path = tmp_path / "story.txt"
    if content is not None:
        path.write_bytes(content)
    assert main((*WORDS, "--story", str(path))) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert message in line


def test_a_folder_and_an_empty_name_are_no_story(tmp_path, capsys):
    for name, message in (
        (str(tmp_path), "is a folder; --story takes a text file"),
        ("", "--story: the file's name is empty"),
    ):
        assert main((*WORDS, "--story", name)) == 2
        assert message in capsys.readouterr().err


def test_an_outline_needs_no_prompt_and_ends_the_text(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    path = tmp_path / "story.txt"
    path.write_text(STORY + "[第一回 风雪] 30-40字\n林冲到草料场。\n[第二回] 20字\n", encoding="utf-8")
    assert main(("novel", "--story", str(path), "--seed", "1", "--max-new-tokens", "3")) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("第一回 风雪\n")
    assert "\n第二回\n" in shown
    assert main(("novel", "江上，", "--story", str(path), "--seed", "1", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["finish_reason"] == "story"
    assert main(("novel", "江上，", "--story", str(path), "--stop", "。")) == 2
    assert "an outline of chapters ends the text by itself; leave stop out" in capsys.readouterr().err


OUTLINE = STORY + "[第一回 风雪] 10字\n"


@pytest.mark.parametrize(
    ("words", "stdin", "as_if"),
    [
        ((), "话说", ("话说",)),
        (("--prompt-file", "-"), "话说\n", ("话说",)),
        ((), " \n", ("",)),
        (("",), "话说", ("",)),  # an argument goes before a pipe, as in all commands
    ],
)
def test_what_is_piped_is_the_prompt_before_an_outline(run: Run, tmp_path: Path, words, stdin, as_if):
    (tmp_path / "outline.txt").write_text(OUTLINE, encoding="utf-8")
    flags = ("--story", str(tmp_path / "outline.txt"), "--seed", "1")
    status, out, _ = run("novel", *words, *flags, stdin=stdin.encode())
    assert status == 0
    assert out == run("novel", *as_if, *flags)[1]
    assert run("novel", "话说", *flags)[1] != run("novel", "", *flags)[1]


def test_the_name_of_a_file_may_begin_as_a_notation_does(tmp_path, capsys, monkeypatch, story):
    monkeypatch.chdir(tmp_path)
    story.rename(tmp_path / "[draft].txt")
    assert written(capsys, "--story", "[draft].txt")["in_sight"] == ["前提", "设定: 江"]


def test_a_file_that_settings_name_and_that_is_missing_is_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "settings.yaml").write_text("keep_lines: nowhere.txt\n", encoding="utf-8")
    assert main((*WORDS, "--config", str(tmp_path / "settings.yaml"))) == 2
    assert capsys.readouterr().err == "cpm-gen: nowhere.txt: No such file or directory\n"
    monkeypatch.setenv("CPM_GEN_STORY", str(tmp_path))
    assert main(WORDS) == 2
    said = f"{tmp_path}: is a folder; environment variable CPM_GEN_STORY: story takes a text file"
    assert capsys.readouterr().err == f"cpm-gen: {said}\n"


@pytest.mark.parametrize("begins", [("--story", "outline.txt"), ("--form", "五绝")])
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--unconditional", "从前"), "--unconditional writes without a prompt; leave the prompt out, or the flag"),
        (("--unconditional", "--prompt", "从前"), "--unconditional writes without a prompt"),
        (("--prompt", ""), "the prompt is empty"),
        (("--prompt-file", os.devnull), "the prompt is empty"),
        ((" ",), "the prompt is empty"),
        (("", "--prompt", "从前"), "give the prompt once"),
    ],
)
def test_a_prompt_is_not_dropped_where_none_is_needed(run: Run, tmp_path: Path, monkeypatch, begins, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outline.txt").write_text(OUTLINE, encoding="utf-8")
    status, out, err = run("novel", *words, *begins)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_a_terminal_is_not_waited_for_where_no_prompt_is_needed(run: Run, monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

        @property
        def buffer(self) -> io.BytesIO:
            raise AssertionError("the terminal is read")

    piped = run("lyric", "--form", "五绝", "--seed", "1")
    assert piped[0] == 0
    monkeypatch.setattr(io, "TextIOWrapper", Terminal)  # what ``run`` makes standard input of
    assert run("lyric", "--form", "五绝", "--seed", "1")[:2] == piped[:2]
