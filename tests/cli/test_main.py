"""The command line as a person meets it: real processes, real files."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpm_gen.checkpoints.locate import EMBEDDED
from tests.cli.conftest import Run
from tests.embedded import HIDDEN, VOCABULARY
from tests.waiting import PATIENCE, until

LINE = "明月几时有，把酒问青天。"


def cpm_gen(
    *words: str | bytes, stdin: bytes = b"", cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-m", "cpm_gen", *words],
        input=stdin,
        capture_output=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, **env},
    )


def text(run: subprocess.CompletedProcess[bytes]) -> str:
    assert run.returncode == 0, run.stderr.decode()
    return run.stdout.decode()


def mistake(run: subprocess.CompletedProcess[bytes]) -> str:
    """One line on standard error, nothing on standard output, status 2."""
    assert run.returncode == 2, run
    assert run.stdout == b""
    (line,) = run.stderr.decode().splitlines()
    return line


@pytest.mark.slow
def test_a_lyric_from_argument_flag_file_and_pipe_is_the_same(run: Run, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text(LINE, encoding="utf-8")
    flags = ["--seed", "1", "--max-new-tokens", "20"]
    from_argument = text(cpm_gen("lyric", LINE, *flags))
    assert from_argument.endswith("\n")
    assert text(cpm_gen("lyric", *flags, stdin=LINE.encode())) == from_argument
    for words, stdin in (
        (["--prompt", LINE], b""),
        (["--prompt-file", str(tmp_path / "p.txt")], b""),
        (["--prompt-file", "-"], "\ufeff".encode() + LINE.encode()),
    ):
        assert run("lyric", *words, *flags, stdin=stdin)[:2] == (0, from_argument)


def test_json_has_every_field_and_its_text_is_what_is_printed(run: Run, tmp_path: Path) -> None:
    flags = ["lyric", LINE, "--seed", "3", "--max-new-tokens", "12", "--n", "2"]
    lines = [json.loads(line) for line in run(*flags, "--json")[1].splitlines()]
    assert [o["index"] for o in lines] == [0, 1]
    for o in lines:
        assert o["finish_reason"] == "length"
        assert o["seed"] == 3
        assert len(o["token_ids"]) == 12
        assert o["prompt_token_ids"][-1] == 7
        assert o["timing"]["first_token"] > 0
        assert o["timing"]["tokens_per_second"] > 0
    assert lines[0]["text"] != lines[1]["text"]
    printed = run(*flags)[1]
    assert all(o["text"].strip("\n") in printed for o in lines)
    target = tmp_path / "out.txt"
    assert run(*flags, "--output", str(target))[:2] == (0, "")
    assert target.read_text(encoding="utf-8") == printed


def test_sampling_flags_are_honoured(run: Run) -> None:
    def written(*flags: str) -> dict[str, Any]:
        status, out, err = run("novel", "话说", "--max-new-tokens", "25", "--json", *flags)
        assert status == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    greedy = [written("--temperature", "0", "--seed", seed)["token_ids"] for seed in ("1", "2")]
    assert greedy[0] == greedy[1]
    assert written("--top-k", "1", "--seed", "5")["token_ids"] == greedy[0]
    whole = written("--temperature", "0")["text"]
    stops = whole[12], whole[8]
    stopped = written("--temperature", "0", "--stop", stops[0], "--stop", stops[1])
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == whole[: min(whole.index(stop) for stop in stops)]
    banned = written("--temperature", "0", "--banned-ids", f"{greedy[0][0]},9")
    assert not {greedy[0][0], 9} & set(banned["token_ids"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["lyric", "--prompt", ""], "prompt is empty"),
        (["novel", "--prompt", "  \n "], "prompt is empty"),
        (["lyric"], "prompt is empty"),  # standard input is an empty pipe
        (["lyric", "--prompt-file", "/nonexistent/p.txt"], "No such file"),
        (["lyric", "--prompt-file", "/"], "is a folder"),
        (["lyric", "x", "--prompt", "y"], "once"),
        (["lyric", b"\xff\xfe"], "byte 0"),
        (["lyric", "x", "--nonsense"], "--nonsense"),
        (["lyric", "x", "--temperature", "nan"], "temperature"),
        (["lyric", "x", "--temperature", "warm"], "temperature must be a number"),
        (["lyric", "x", "--top-k", "-1"], "top_k"),
        (["lyric", "x", "--n", "0"], "n must be"),
        (["lyric", "x", "--max-new-tokens", "many"], "max_new_tokens"),
        (["lyric", "x", "--tensor-parallel", "7"], "possible: 1, 2"),
        (["lyric", "x", "--model", "/nonexistent"], "no such folder"),
        (["lyric", "x", "--model", "/"], "latest_checkpointed_iteration.txt"),
        (["lyric", "x", "--tokenizer", "/"], "chinese_vocab.model"),
        (["lyric", "x", "--output", "/nonexistent/out"], "no folder"),
        (["lyric", "x", "--output", "/"], "is a folder"),
        (["lyric", "x", "--config", "/nonexistent.yaml"], "No such file"),
        (["lyric", "x", "--decoder", "fast"], "cached or recompute"),
        (["lyric", "x", "--window-boundary", "line"], "token or sentence or eod"),
        (["inspect", "/"], "latest_checkpointed_iteration.txt"),
        (["reshard", "/nonexistent", "2"], "no such folder"),
        (["reshard", str(EMBEDDED), "2", "--heads", "7"], "7 heads"),
        (["lyric", "x", "--config", "cpm-large"], f"hidden size is {HIDDEN}"),
        (["lyric", "x", "--banned-ids", "99999"], "99999"),
        (["lyric", "x", "--threads", "0"], "threads"),
        (["reshard", str(EMBEDDED), "zero"], "MPSIZE"),
        (["tokenize", "x", "--json-lines"], "leave the text out"),
        (["tokenize", "x", "--model", "owner/name"], "cpm-gen download owner/name fetches"),
        (["sing"], "sing"),
        (["--local_rank", "0"], "COMMAND"),
    ],
    ids=str,
)
def test_mistakes_are_one_line_and_write_nothing(words: list[str], says: str, tmp_path: Path) -> None:
    assert says in mistake(cpm_gen(*words, cwd=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("明月".encode() + b"\xe9 \xe8")
    assert "byte 6" in mistake(cpm_gen("lyric", "--prompt-file", str(tmp_path / "latin.txt")))
    assert "byte 2" in mistake(cpm_gen("lyric", stdin=b"ab\x80"))


def test_a_full_disk_is_one_line_about_the_file() -> None:
    line = mistake(cpm_gen("lyric", LINE, "--output", "/dev/full", "--max-new-tokens", "5"))
    assert "/dev/full" in line
    assert "No space" in line


def test_a_long_prompt_is_kept_to_the_window_with_a_note(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("春江潮水连海平。" * 12_000, encoding="utf-8")  # 288 kB
    run = cpm_gen("novel", "--prompt-file", str(tmp_path / "long.txt"), "--max-new-tokens", "3", "--json")
    completion = json.loads(text(run))
    assert len(completion["token_ids"]) == 3
    assert len(completion["prompt_token_ids"]) > 50_000
    assert run.stderr.decode().startswith("note: the prompt has")


def test_settings_come_from_flags_environment_files_in_that_order(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("top_k: 7\ntemperature: 0.3\nseed: 5\n")
    shown = text(
        cpm_gen(
            "lyric", "--config", str(tmp_path / "mine.yaml"), "--seed", "9", "--print-config", CPM_GEN_TEMPERATURE="0.4"
        )
    )
    rows = {line.split(":")[0]: line for line in shown.splitlines()}
    assert rows["seed"].split() == ["seed:", "9", "#", "--seed"]
    assert rows["temperature"].split() == ["temperature:", "0.4", "#", "CPM_GEN_TEMPERATURE"]
    assert rows["top_k"].split()[:2] == ["top_k:", "7"]
    assert rows["top_k"].endswith("mine.yaml")
    assert rows["top_p"].endswith("lyric.yaml")
    assert rows["min_p"].endswith("default")
    assert "sead" in mistake(cpm_gen("lyric", "x", CPM_GEN_SEAD="1")).lower()
    (tmp_path / "bad.yaml").write_text("temprature: 1\n")
    assert "did you mean 'temperature'" in mistake(cpm_gen("lyric", "x", "--config", str(tmp_path / "bad.yaml")))


def test_ctrl_c_keeps_what_was_written_and_exits_130(
    begin: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    target = tmp_path / "novel.txt"
    process = begin(
        [sys.executable, "-m", "cpm_gen", "novel", "话说", "--max-new-tokens", "unlimited", "--output", str(target)],
        stderr=subprocess.PIPE,
    )
    until(lambda: target.exists() and target.stat().st_size > 300)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err == b""
    assert len(target.read_text(encoding="utf-8")) > 100


def test_a_reader_that_leaves_is_no_traceback() -> None:
    run = subprocess.run(
        f"{sys.executable} -m cpm_gen novel 话说 --max-new-tokens 300 | head -c 30",
        shell=True,
        capture_output=True,
        timeout=120,
    )
    assert run.stderr == b""


def test_tokenize_and_score_in_json_lines_both_ways() -> None:
    texts = ["春江潮水", "a<eod>b\nc", "🙂"]
    lines = "".join(json.dumps({"text": t}) + "\n" for t in texts).encode()
    ids = [json.loads(line)["ids"] for line in text(cpm_gen("tokenize", "--json-lines", stdin=lines)).splitlines()]
    back = "".join(json.dumps({"ids": i}) + "\n" for i in ids).encode()
    decoded = [
        json.loads(o)["text"] for o in text(cpm_gen("tokenize", "--json-lines", "--decode", stdin=back)).splitlines()
    ]
    assert decoded[:2] == texts[:2]
    scores = [json.loads(o)["logprobs"] for o in text(cpm_gen("score", "--json-lines", stdin=back)).splitlines()]
    assert [len(s) for s in scores] == [len(i) for i in ids]
    assert all(s[0] is None and all(p < 0 for p in s[1:]) for s in scores)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"text": 5}', 'needs "text"'),
        (b"[]", "JSON object"),
        (b"nonsense", "not JSON"),
        (b'{"text": "a"}\n{"ids": []}', "line 2"),
        (b'{"text": "\xff"}', "byte"),
        (b'{"text": "\\ud800"}', "surrogate"),
    ],
)
def test_a_bad_line_is_named(line: bytes, says: str) -> None:
    run = cpm_gen("tokenize", "--json-lines", stdin=line)
    assert run.returncode == 2
    assert says in run.stderr.decode()


def test_reference_tokens_through_the_pipe(reference: Path) -> None:
    rows = [
        json.loads(o) for o in (reference / "original" / "tokenizer.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    lines = "".join(json.dumps({"text": r["text"]}) + "\n" for r in rows).encode()
    out = text(cpm_gen("tokenize", "--json-lines", "--tokenizer", str(reference / "vocab"), stdin=lines))
    assert [json.loads(o)["ids"] for o in out.splitlines()] == [r["ids"] for r in rows]


def test_help_is_quick_and_names_every_flag() -> None:
    shown = text(cpm_gen("novel", "--help"))
    flags = (
        "--model --tokenizer --heads --prompt --prompt-file --style --decoder --window-hop --window-boundary --window-keep",
        "--max-new-tokens --temperature --top-k --top-p --seed --n --dtype --device --tensor-parallel --output --json",
    )
    for flag in " ".join(flags).split():
        assert flag in shown
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from cpm_gen.cli.main import main; main(['--help']); print('torch' in sys.modules)",
        ],
        capture_output=True,
        text=True,
    )
    assert run.stdout.splitlines()[-1] == "False"


def test_closed_standard_streams_are_no_traceback() -> None:
    for redirection, text, status in (("<&-", "", 0), (">&-", "春", 2), ("2>&-", "春", 0)):
        run = subprocess.run(
            f"{sys.executable} -m cpm_gen tokenize {text} {redirection}",
            shell=True, capture_output=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert b"Traceback" not in run.stderr
        assert run.returncode == status
        assert (b"standard output: is closed" in run.stderr) == (redirection == ">&-")


def test_a_polite_request_to_end_finishes_the_json(
    begin: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    target = tmp_path / "out.json"
    flags = ["--max-new-tokens", "unlimited", "--json", "--output", str(target)]
    process = begin([sys.executable, "-m", "cpm_gen", "novel", "话说", *flags])
    until(target.exists)
    process.terminate()
    assert process.wait(timeout=PATIENCE) == 143
    assert json.loads(target.read_text(encoding="utf-8"))["finish_reason"] == "cancelled"


@pytest.mark.slow
def test_a_work_under_nohup_survives_its_terminal(
    begin: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    target = tmp_path / "out.txt"
    process = begin(
        [
            "nohup",
            sys.executable,
            "-m",
            "cpm_gen",
            "novel",
            "话说",
            "--max-new-tokens",
            "1500",
            "--output",
            str(target),
        ],
        stderr=subprocess.DEVNULL,
    )
    until(target.exists)
    assert process.poll() is None
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=PATIENCE) == 0


def test_what_cannot_begin_overwrites_nothing(tmp_path: Path) -> None:
    target = tmp_path / "novel.txt"
    target.write_text("kept")
    run = cpm_gen("lyric", "x", "--banned-ids", ",".join(map(str, range(VOCABULARY))), "--output", str(target))
    assert run.returncode == 1
    assert target.read_text() == "kept"


@pytest.mark.slow
def test_inspect_honours_the_environment() -> None:
    assert "no such folder" in mistake(cpm_gen("inspect", CPM_GEN_MODEL="/nonexistent"))
    assert "CPM_GEN_SEAD" in mistake(cpm_gen("inspect", CPM_GEN_SEAD="1"))
    assert json.loads(text(cpm_gen("inspect", "--json", CPM_GEN_HEADS="4")))["heads"] == 4


def test_deeply_nested_json_is_a_bad_line() -> None:
    assert "not JSON" in mistake(cpm_gen("tokenize", "--json-lines", stdin=b"[" * 100_000))
