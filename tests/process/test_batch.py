"""``cpm-gen batch`` in processes that are killed: each result once, the same texts, in one process and in several."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpm_gen.cli.main import main
from tests.processes import TORCHRUN, alive, children, linux
from tests.waiting import PATIENCE, until

Begin = Callable[..., subprocess.Popen[Any]]
PROMPTS = ("春江潮水连海平", "话说", "明月几时有", "林冲", "却说那", "白日依山尽", "从前", "大江东去")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = [
        {"id": f"p{at}", "prompt": PROMPTS[at % len(PROMPTS)], "max_new_tokens": 6 + 37 * at % 40} for at in range(12)
    ]
    lines += [{"id": "verse", "form": "五绝", "candidates": 2}, {"id": "several", "prompt": "春", "n": 3, "rank": True}]
    path = tmp_path_factory.mktemp("batch") / "in.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "not JSON\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(source: Path) -> list[str]:
    """The results of a run that nothing disturbs, sorted."""
    out = source.parent / "whole.jsonl"
    assert main(["batch", str(source), str(out), "--threads", "1", "--batch", "4"]) == 1  # one line is no JSON
    return sorted(out.read_text(encoding="utf-8").splitlines())


def started(begin: Begin, source: Path, out: Path, *flags: str) -> subprocess.Popen[Any]:
    words = [sys.executable, "-m", "cpm_gen", "batch", str(source), str(out), "--batch", "4", "--threads", "1", *flags]
    return begin(words, stderr=subprocess.PIPE, text=True)


def lines(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


def test_a_run_that_is_killed_goes_on_and_gives_the_same(
    begin: Begin, source: Path, whole: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    process = started(begin, source, out)
    until(lambda: lines(out) >= 2)
    process.kill()
    process.wait()
    assert lines(out) < len(whole)
    assert main(["batch", str(source), str(out), "--threads", "1", "--batch", "3", "--in-order"]) == 1
    assert sorted(out.read_text(encoding="utf-8").splitlines()) == whole


@pytest.mark.slow
def test_replicas_give_the_same(source: Path, whole: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["batch", str(source), str(out), "--replicas", "2", "--in-order"]) == 1
    written = out.read_text(encoding="utf-8").splitlines()
    assert sorted(written) == whole
    assert [json.loads(line)["id"] for line in written] == [f"p{at}" for at in range(12)] + ["verse", "several", None]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--replicas", "2"), ("--in-order",), ("--replicas", "2", "--in-order")])
def test_runs_that_are_killed_at_any_time_give_the_same(
    begin: Begin, source: Path, whole: list[str], tmp_path: Path, flags: tuple[str, ...]
) -> None:
    out, dice = tmp_path / "out.jsonl", random.Random(len(flags))
    for _ in range(6):
        before = lines(out)
        process = started(begin, source, out, *flags)
        until(lambda before=before, process=process: lines(out) > before or process.poll() is not None)
        time.sleep(dice.random() / 2)
        process.kill()
        process.wait()
    assert started(begin, source, out, *flags).wait() == 1
    assert sorted(out.read_text(encoding="utf-8").splitlines()) == whole


@pytest.mark.slow
@linux
def test_replicas_end_with_their_parent_and_the_next_run_goes_on(
    begin: Begin, source: Path, whole: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    process = started(begin, source, out, "--replicas", "2")
    until(lambda: lines(out) >= 2)
    replicas = children(process.pid)
    assert len(replicas) == 2
    process.kill()
    process.wait()
    until(lambda: not any(map(alive, replicas)))
    before = lines(out)
    process = started(begin, source, out, "--replicas", "2", "--in-order")
    until(lambda: lines(out) > before)
    killed = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert f"stopped; {out} holds {lines(out)} of 15 lines, and the same command goes on from there" in err
    assert not any(map(alive, killed))
    assert started(begin, source, out, "--replicas", "2").wait() == 1
    assert sorted(out.read_text(encoding="utf-8").splitlines()) == whole


@pytest.mark.slow
@linux
def test_a_replica_that_dies_ends_the_run_with_its_error(begin: Begin, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    process = started(begin, source, out, "--replicas", "2", "--in-order")
    until(lambda: lines(out) >= 1)
    first, second = children(process.pid)
    os.kill(second, signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines()[-2:] == [
        f"note: stopped; {out} holds {lines(out)} of 15 lines, and the same command goes on from there",
        "cpm-gen: replica 2 was ended by signal 9",
    ]
    assert not alive(first)


@pytest.mark.slow
def test_what_is_wrong_with_the_model_is_said_by_the_replicas(begin: Begin, source: Path, tmp_path: Path) -> None:
    process = started(begin, source, tmp_path / "out.jsonl", "--replicas", "2", "--model", str(tmp_path / "none"))
    _, err = process.communicate()
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert "no such folder; --model takes the folder of a checkpoint" in err


@pytest.mark.slow
def test_the_ranks_of_a_launcher_end_together_also_when_nothing_is_left(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    for _ in range(2):
        run = subprocess.run(
            [*TORCHRUN, "batch", str(source), str(out), "--max-new-tokens", "4"],
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert f"1 of 15 lines gave no text; {out} says why" in run.stderr
        assert lines(out) == 15
