"""The terminal: the interactive session and the status line, through a pseudo-terminal."""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pexpect = pytest.importorskip("pexpect")

ANSI = re.compile(r"\x1b[\[\]()#;?0-9]*[a-zA-Z78=>]")


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator:
    started = []

    def start(*words: str, into: Path | None = None):
        """``into``: where standard output goes; the rest stays with the terminal."""
        line = shlex.join([sys.executable, "-m", "cpm_gen", *words]) + (f" > {shlex.quote(str(into))}" if into else "")
        own = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}  # the terminal's own size counts
        env = {**own, "TERM": "xterm", "XDG_STATE_HOME": str(tmp_path), "PROMPT_TOOLKIT_NO_CPR": "1"}
        child = pexpect.spawn(
            "/bin/sh", ["-c", f"exec {line}"], env=env, encoding="utf-8", timeout=60, dimensions=(24, 90)
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)


@pytest.mark.slow
def test_a_session_writes_in_a_form(terminal) -> None:
    child = terminal("lyric", "--seed", "1")
    child.expect("›")
    child.send("/set form 浣溪杀\r")
    child.expect("did you mean .*浣溪沙")
    child.send("/set form 五绝\r")
    child.expect("›")
    child.send("\r")
    child.expect("seed 1")
    written = re.sub(
        "[^\u4e00-\u9fff，。]", "", ANSI.sub("", child.before)
    )  # the status line stands between the tokens
    assert re.search("([\u4e00-\u9fff]{5}，[\u4e00-\u9fff]{5}。){2}", written)
    child.send("/set form none\r")
    child.expect("›")
    child.send("/set\r")
    child.expect("  form None")
    child.send("/quit\r")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


@pytest.mark.slow
def test_a_session_takes_files_of_kept_lines_and_stories(terminal, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("白日依山尽，黄河入海流。\n", encoding="utf-8")
    (tmp_path / "outline.txt").write_text("[第一回 风雪] 10字\n林冲到草料场。\n", encoding="utf-8")
    child = terminal("lyric", "--seed", "1")
    child.expect("›")
    child.send("/set form 五绝\r")
    child.expect("›")
    child.send("/set keep_lines nowhere.txt\r")
    child.expect("nowhere.txt: No such file or directory")
    child.send(f"/set keep_lines {tmp_path / 'kept.txt'}\r")
    child.expect("›")
    child.send("\r")
    child.expect("seed 1")
    assert "白日依山尽，黄河入海流。" in re.sub("[^\u4e00-\u9fff，。]", "", ANSI.sub("", child.before))
    child.send("/quit\r")
    child.expect(pexpect.EOF)

    child = terminal("novel", "--seed", "1", "--max-new-tokens", "3")
    child.expect("›")
    child.send(f"/set story {tmp_path / 'outline.txt'}\r")
    child.expect("›")
    child.send("\r")
    child.expect("seed 1")
    assert "第一回风雪" in re.sub("[^\u4e00-\u9fff，。]", "", ANSI.sub("", child.before))
    child.send("/set story none\r")
    child.expect("›")
    child.send("/set\r")
    child.expect("  story None")
    child.send("/quit\r")
    child.expect(pexpect.EOF)


def test_a_session_writes_is_interrupted_remembers_and_quits(terminal, tmp_path: Path) -> None:
    child = terminal("lyric", "--max-new-tokens", "15", "--seed", "1")
    child.expect("/quit ends")
    child.expect("›")
    child.send("春江潮水\r")
    child.expect("15 tokens.*seed 1")
    child.expect("›")
    child.send("/set max_new_tokens unlimited\r")
    child.expect("›")
    child.send("明月\r")
    child.expect("tokens/s")
    child.sendintr()
    child.expect("seed 1")
    child.expect("›")  # the text ended, the session did not
    child.send("/set warmth 3\r")
    child.expect("cannot be changed here")
    child.send("/nonsense\r")
    child.expect("no command /nonsense")
    child.send("/quit\r")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0
    history = (tmp_path / "cpm-gen" / "history").read_text(encoding="utf-8")
    assert "春江潮水" in history


def test_enter_alone_writes_a_text_without_a_prompt_once_that_is_set(terminal) -> None:
    child = terminal("lyric", "--max-new-tokens", "5", "--seed", "1")
    child.expect("›")
    child.send("/set unconditional true\r")
    child.expect("›")
    child.send("\r")
    child.expect("5 tokens.*seed 1")
    child.expect("›")
    child.send("明月\r")
    child.expect("press Enter alone, or /set unconditional false")
    child.send("/set unconditional false\r")
    child.expect("›")
    child.send("明月\r")
    child.expect("5 tokens.*seed 1")
    child.send("/quit\r")
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_a_prompt_of_several_lines_is_one_prompt(terminal) -> None:
    child = terminal("generate", "--max-new-tokens", "3", "--seed", "1")
    child.expect("›")
    child.send("第一行\x1b\r第二行\r")
    child.expect("3 tokens.*seed 1")
    child.expect("›")  # before it asks, the terminal may still hold back what is typed
    child.send("\x04")  # Ctrl-D
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


def test_on_a_terminal_speed_and_time_left_show_and_go(terminal) -> None:
    child = terminal("novel", "话说", "--max-new-tokens", "1200", "--window-limit", "64", "--seed", "1")
    child.expect(r"/1,200 tokens · [\d.]+ tokens/s · \d+:\d\d left")
    child.expect("window moved")
    child.expect(r"\d of 2 KV slots")
    child.expect(
        r"1,200 tokens · [\d.]+ tokens/s · window moved \d+× · prompt read in [\d.]+ s \([\d,.]+ tokens/s\) · seed 1"
    )
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 0


@pytest.mark.slow
def test_ctrl_c_with_json_reports_what_there_is(terminal, tmp_path: Path) -> None:
    child = terminal("novel", "话说", "--max-new-tokens", "unlimited", "--json", into=tmp_path / "out")
    child.expect("tokens/s")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 130
    assert json.loads((tmp_path / "out").read_text(encoding="utf-8"))["finish_reason"] == "cancelled"


def test_ctrl_c_on_a_terminal_exits_130(terminal) -> None:
    child = terminal("novel", "话说", "--max-new-tokens", "unlimited")
    child.expect("tokens/s")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.wait()
    assert child.exitstatus == 130
    assert "Traceback" not in ANSI.sub("", child.before)
