"""Texts, paths and flags as shells and editors hand them over: in this process, with a file for standard input."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        status = main(words)
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


@pytest.fixture
def mistake(run: Run) -> Callable[..., str]:
    """One line on standard error, nothing on standard output, status 2."""

    def mistake(*words: str, stdin: bytes = b"") -> str:
        status, out, err = run(*words, stdin=stdin)
        assert (status, out) == (2, ""), (status, out, err)
        (line,) = err.splitlines()
        return line

    return mistake


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", ""],
        ["reshard", "", "2"],
        ["reshard", str(EMBEDDED), "2", "--output", ""],
        ["lyric", "x", "--model", ""],
        ["lyric", "x", "--tokenizer", ""],
        ["lyric", "x", "--config", ""],
        ["lyric", "--prompt-file", ""],
        ["lyric", "x", "--output", ""],
        ["tokenize", "--prompt-file", ""],
        ["tokenize", "x", "--model", ""],
        ["score", "x", "--model", ""],
        ["serve", "--database", ""],
        ["serve", "--keys", ""],
        ["serve", "--host", ""],
    ],
    ids=" ".join,
)
def test_an_empty_path_is_a_mistake(mistake: Callable[..., str], words: list[str]) -> None:
    assert "empty" in mistake(*words)


def test_an_empty_path_of_the_environment_is_a_mistake(
    mistake: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CPM_GEN_MODEL", "")
    assert "model must not be empty" in mistake("generate", "x")


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_one_final_newline_of_a_pipe_or_a_file_is_not_part_of_the_text(run: Run, tmp_path: Path, ending: str) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes(("从前" + ending).encode())
    _, argument, _ = run("tokenize", "从前")
    assert run("tokenize", stdin=("从前" + ending).encode())[1] == argument
    assert run("tokenize", "--prompt-file", str(file))[1] == argument
    assert run("tokenize", stdin=("从前" + ending + ending).encode())[1] != argument


def test_a_file_of_windows_is_scored_as_one_of_unix(run: Run, tmp_path: Path) -> None:
    for name, content in (
        ("unix", "床前明月光，\n疑是地上霜。"),
        ("windows", "\ufeff床前明月光，\r\n疑是地上霜。\r\n"),
    ):
        (tmp_path / name).write_bytes(content.encode())
    unix, windows = (run("score", "--prompt-file", str(tmp_path / name))[1] for name in ("unix", "windows"))
    assert json.loads(windows) == json.loads(unix)


def test_utf_16_of_powershell_is_named(mistake: Callable[..., str], tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_bytes("从前".encode("utf-16"))
    assert "UTF-16" in mistake("tokenize", "--prompt-file", str(file))
    assert "UTF-16" in mistake("generate", stdin="从前".encode("utf-16"))


def test_newlines_end_lines_of_a_lyric_prompt_but_in_the_originals_scripts(run: Run) -> None:
    flags = ("--max-new-tokens", "1", "--temperature", "0", "--json")
    lines, eod = (
        json.loads(run("lyric", f"床前明月光{end}疑是地上霜", *flags)[1])["prompt_token_ids"] for end in ("\n", "<eod>")
    )
    assert lines == eod
    for way in (("--lyric-lines", "eod"), ("--config", "original")):
        original = json.loads(run("lyric", "床前明月光\n疑是地上霜", *flags, *way)[1])["prompt_token_ids"]
        assert original.count(7) == 1
    scripts = sorted((Path(__file__).parents[2] / "scripts").glob("generate_*.sh"))
    assert len(scripts) == 4
    assert all("original.yaml" in s.read_text() or "--lyric-lines eod" in s.read_text() for s in scripts)
