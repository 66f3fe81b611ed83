"""Texts, paths and flags as shells and editors hand them over: in this process, with a file for standard input."""

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.cli.main import COMMANDS, main
from cpm_gen.cli.parser import install_hint
from cpm_gen.cli.write import Samples
from cpm_gen.outputs import Chunk, Completion, Timing

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


def test_what_a_stop_or_a_prompt_cannot_mean_is_said(run: Run) -> None:
    flags = ("--max-new-tokens", "1", "--temperature", "0")
    assert r"backslash" in run("generate", "从前", "--stop", r"\n", *flags)[2]
    assert "<sep> is read as text" in run("generate", "从前<sep>", *flags)[2]
    status, out, err = run("tokenize", "从前<sep>", "--special-pieces")
    assert (status, out.split()[-1], err) == (0, "4", "")


def test_more_least_tokens_than_most_are_a_mistake(mistake: Callable[..., str]) -> None:
    assert "min_new_tokens must be at most" in mistake("lyric", "x", "--min-new-tokens", "9", "--max-new-tokens", "8")


def test_without_a_command_the_commands_are_shown(run: Run) -> None:
    status, out, err = run()
    assert (status, err) == (0, "")
    assert all(name in out for name in COMMANDS)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["lyrics", "x"], "did you mean lyric?"),
        (["tokenise", "x"], "did you mean tokenize?"),
        (["lyric", "x", "--temprature", "0.5"], "did you mean --temperature?"),
        (["lyric", "x", "--max-tokens=5"], "did you mean --max-new-tokens?"),
        (["lyric", "x", "——seed", "1"], "did you mean --seed?"),
        (["lyric", "——seed", "1", "明月"], "did you mean --seed?"),
        (["lyric", "x", "—-top-p=0.9"], "did you mean --top-p?"),
        (["generate", "-从前"], "--prompt=TEXT, or after --"),
        (["generate", "--prompt", "-从前"], "--prompt=TEXT"),
    ],
    ids=str,
)
def test_a_mistake_in_a_command_or_flag_names_what_was_meant(
    mistake: Callable[..., str], words: list[str], meant: str
) -> None:
    assert meant in mistake(*words)


def test_a_flag_like_no_other_gets_no_suggestion(mistake: Callable[..., str]) -> None:
    assert "did you mean" not in mistake("inspect", "--model", "")
    assert "did you mean" not in mistake("lyric", "x", "--zzz")


def test_a_text_that_begins_with_a_dash_is_taken_after_two_dashes_or_an_equals_sign(run: Run) -> None:
    expected = run("tokenize", stdin="-从前".encode())
    assert expected[0] == 0
    assert run("tokenize", "--prompt=-从前") == expected
    assert run("tokenize", "--", "-从前") == expected


def test_output_dash_is_standard_output(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--max-new-tokens", "3", "--seed", "1")
    assert run("generate", "从前", "--output", "-", *flags) == run("generate", "从前", *flags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_of_a_shell_names_commands_and_flags(run: Run, shell: str) -> None:
    status, out, _ = run("--print-completion", shell)
    assert status == 0
    assert "tokenize" in out
    assert "--window-hop" in out


def test_a_module_that_windows_lacks_says_what_is_supported() -> None:
    assert "WSL" in str(install_hint("resource", "serve", "the service"))
    assert "pip install -c constraints.txt -e '.[serve]'" in str(install_hint("fastapi", "serve", "the service"))


def test_no_text_says_to_install_a_package_that_no_index_has() -> None:
    root = Path(__file__).parents[2]
    texts = [*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("cpm_gen/**/*.py")]
    assert not [str(path) for path in texts if re.search(r"pip install '?cpm-gen", path.read_text(encoding="utf-8"))]


def test_finished_samples_are_kept_when_another_ends_with_an_error() -> None:
    timing = Timing(None, None)
    completion = Completion("二", (1,), (2,), "length", 1, 1, 0, timing)
    chunk = Chunk("二", (1,), 0, 1, 1, 0, 0, finish_reason="length", completion=completion)
    out = io.StringIO()
    samples = Samples(3, as_json=True)
    samples.take(chunk, out)
    assert out.getvalue() == ""
    samples.rest(out)
    (line,) = out.getvalue().splitlines()
    assert json.loads(line)["text"] == "二"
