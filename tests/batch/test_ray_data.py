"""``cpm-gen batch --ray``: the same results over a Ray cluster of two workers that is started here."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import PROC, children, linux
from tests.waiting import until

pytest.importorskip("ray")

pytestmark = pytest.mark.slow
ENVIRONMENT = {**os.environ, "RAY_worker_niceness": "0"}  # with Ray's 15 a busy machine does not run them
LINES = [{"id": at, "prompt": "春江潮水连海平"[: 1 + at % 7], "max_new_tokens": 3 + 7 * at % 20} for at in range(40)]


def words(source: Path, out: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "cpm_gen", "batch", str(source), str(out), "--batch", "4", "--threads", "1", *flags]


def batch(source: Path, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: Ray starts threads that outlive a test."""
    return subprocess.run(words(source, out, *flags), capture_output=True, text=True, timeout=400, env=ENVIRONMENT)


def workers(pid: int) -> list[int]:
    """The process ids of Ray's actors below a process."""
    below = [pid]
    for each in below:
        below += children(each)
    return [each for each in below if b"MapWorker" in (PROC / str(each) / "cmdline").read_bytes()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + "not JSON\n", encoding="utf-8")
    return path


def test_the_results_are_those_of_one_process_and_a_run_goes_on(source: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.jsonl"
    assert batch(source, alone).returncode == 1  # one line is no JSON
    whole = alone.read_text(encoding="utf-8").splitlines()
    out = tmp_path / "out.jsonl"
    out.write_text("".join(f"{line}\n" for line in whole[:7]), encoding="utf-8")
    ended = batch(source, out, "--ray", "--replicas", "2", "--in-order")
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.splitlines()[0] == f"note: {out} holds 7 results already"
    written = out.read_text(encoding="utf-8").splitlines()
    assert sorted(written) == sorted(whole)
    rest = [json.loads(line).get("id") for line in written[7:]]
    assert rest[-1] is None
    assert rest[:-1] == sorted(rest[:-1])


def test_a_mistake_is_one_line(source: Path, tmp_path: Path) -> None:
    for flags, says in (
        (("--model", "/nonexistent"), "no such folder"),
        (("--replicas", "500"), "the Ray cluster has room for"),
    ):
        ended = batch(source, tmp_path / "out.jsonl", "--ray", *flags)
        assert ended.returncode == 2
        (line,) = [line for line in ended.stderr.splitlines() if line.startswith("cpm-gen: ")]
        assert says in line
        assert ended.stderr.count("\n") == 1


@linux
def test_a_worker_that_dies_is_replaced_and_ctrl_c_ends_all(
    begin: Callable[..., subprocess.Popen[Any]], tmp_path: Path
) -> None:
    source, out = tmp_path / "long.jsonl", tmp_path / "out.jsonl"
    lines = [{"id": at, "prompt": "话说", "max_new_tokens": 60 + at} for at in range(80)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    process = begin(
        words(source, out, "--ray", "--replicas", "2"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=ENVIRONMENT,
    )  # fmt: skip
    until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 2, patience=300)
    os.kill(workers(process.pid)[0], signal.SIGKILL)
    until(lambda: out.read_bytes().count(b"\n") >= 60, patience=300)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    found = [json.loads(line)["id"] for line in out.read_text(encoding="utf-8").splitlines()]
    assert process.returncode == 130
    assert f"note: stopped; {out} holds {len(found)} of 80 lines" in err
    assert len(set(found)) == len(found)
