"""Several ranks as real processes: they find each other on loopback only, and end together."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cpm_gen
from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.parallel.launchers import Launch, launched
from cpm_gen.runtime.rank_worker import Assignment
from tests.processes import PROC, TORCHRUN, alive, children, linux
from tests.random_networks import random_checkpoint
from tests.waiting import PATIENCE, until

PROGRAM = [sys.executable, "-m", "cpm_gen"]


@pytest.fixture
def novel(begin: Callable[..., subprocess.Popen[bytes]], tmp_path: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """An endless novel on two ranks, writing already."""
    target = tmp_path / "text.txt"
    flags = ["--tensor-parallel", "2", "--max-new-tokens", "unlimited", "--output", str(target)]
    process = begin(
        [*PROGRAM, "novel", "话说", *flags], stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    until(lambda: target.exists() and target.stat().st_size > 60)
    return process, target


@pytest.mark.slow
@linux
def test_ranks_listen_on_loopback_only(novel: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, _ = novel
    try:
        inodes = set()
        for pid in [process.pid, *children(process.pid)]:
            for fd in (PROC / str(pid) / "fd").iterdir():
                link = str(fd.readlink())
                if link.startswith("socket:["):
                    inodes.add(link[8:-1])
        listening = set()
        for table in ("tcp", "tcp6"):
            for row in (PROC / "net" / table).read_text().splitlines()[1:]:
                cells = row.split()
                if cells[3] == "0A" and cells[9] in inodes:
                    listening.add(cells[1].split(":")[0])
        local = {"0100007F", "00000000000000000000000001000000"}
        assert listening
        assert listening <= local
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 130


@linux
def test_when_a_rank_is_killed_all_end_within_seconds_with_its_error(
    novel: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, target = novel
    (worker,) = children(process.pid)
    os.kill(worker, signal.SIGKILL)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.decode().strip() == "cpm-gen: rank 1 was ended by signal 9"
    assert target.stat().st_size > 60


@linux
def test_when_rank_0_is_killed_no_orphan_stays_and_no_folder(
    novel: tuple[subprocess.Popen[bytes], Path], tmp_path: Path
) -> None:
    process, _ = novel
    workers = children(process.pid)
    process.kill()
    process.communicate()
    assert workers
    until(lambda: not any(alive(pid) for pid in workers), 30)
    assert list(tmp_path.glob("cpm-gen-*")) == []


@pytest.mark.slow
@linux
def test_ctrl_c_ends_all_ranks_in_order(novel: tuple[subprocess.Popen[bytes], Path]) -> None:
    process, _ = novel
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (130, b"")
    assert not any(alive(pid) for pid in workers)


def test_a_rank_that_cannot_start_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Assignment, "to_json", lambda self: "{}")
    with pytest.raises(cpm_gen.RankError, match="rank 1 ended with status 1: KeyError: 'plan'"):
        cpm_gen.load(tensor_parallel=2)


@pytest.mark.slow
def test_python_gets_the_error_when_a_rank_dies_and_can_load_again(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    llm = cpm_gen.load(folder, tensor_parallel=2)
    llm.engine.kill_ranks()
    with pytest.raises(cpm_gen.RankError, match="rank 1 was ended by signal 9"):
        for _ in range(100):
            llm.score(list(range(16)))
    with pytest.raises(cpm_gen.CpmGenError, match="closed"):
        llm.score([1, 2])
    with cpm_gen.load(folder, tensor_parallel=2) as again:
        assert len(again.score([1, 2])) == 2
        with pytest.raises(cpm_gen.ConfigError, match="close that one first"):
            cpm_gen.load(folder, tensor_parallel=2)
        assert len(again.score([1, 2])) == 2


def expected_ids() -> list[int]:
    with cpm_gen.load(decoder="recompute") as llm:
        return list(llm.generate("话说", style="novel", temperature=0, max_new_tokens=12).token_ids)


GREEDY = ["generate", "话说", "--style", "novel", "--temperature", "0", "--max-new-tokens", "12", "--json"]


@pytest.mark.slow
def test_torchrun_runs_the_same_program() -> None:
    run = subprocess.run(
        [*TORCHRUN, *GREEDY],
        capture_output=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr.decode()
    assert json.loads(run.stdout)["token_ids"] == expected_ids()


@pytest.mark.slow
def test_torchrun_ends_with_a_users_mistake() -> None:
    run = subprocess.run(
        [*TORCHRUN, "novel", "话说", "--tensor-parallel", "4"],
        capture_output=True,
        timeout=120,
    )
    assert run.returncode != 0
    assert b"launcher that started 2 ranks" in run.stderr


def test_a_mistake_that_rank_0_alone_sees_ends_all_at_once() -> None:
    run = subprocess.run([*TORCHRUN, "novel", ""], capture_output=True, timeout=120)
    assert run.returncode != 0
    assert b"the prompt is empty" in run.stderr
    # a rank that sits out torchrun's request to end is killed after 30 seconds, and torchrun says so
    assert b"forcefully exiting" not in run.stderr


def test_a_prompt_longer_than_a_steps_budget_is_encoded_alike_on_two_ranks() -> None:
    prompt = "春江潮水连海平，海上明月共潮生。" * 30
    texts = []
    for degree in (1, 2):
        with cpm_gen.load(tensor_parallel=degree) as llm:
            assert llm.engine.vocabulary.visible(llm.encode(prompt), llm.engine.window) > 256
            texts.append(llm.generate(prompt, temperature=0, max_new_tokens=8).token_ids)
    assert texts[0] == texts[1]


@pytest.mark.deepspeed
@pytest.mark.slow
def test_the_deepspeed_launcher_runs_the_same_program() -> None:
    pytest.importorskip("deepspeed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = Path(sys.executable).with_name("deepspeed")
    run = subprocess.run(
        [str(launcher), "-q", "--num_gpus", "2", "--master_port", str(port), "--module", "cpm_gen", *GREEDY],
        capture_output=True,
        timeout=180,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "PATH": f"{launcher.parent}{os.pathsep}{os.environ['PATH']}"},
    )
    assert run.returncode == 0, run.stderr.decode()
    assert json.loads(run.stdout)["token_ids"] == expected_ids()


def test_launchers_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() is None
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert launched() == Launch(rank=3, size=4, local_rank=1, local_size=2, deepspeed=False)
    monkeypatch.setenv("CROSS_RANK", "1")
    assert launched().deepspeed
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert not launched().deepspeed
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() is None


def test_degree_of_the_checkpoint_itself_is_auto(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path, degree=2)
    with cpm_gen.load(folder, tensor_parallel="auto") as llm:
        assert llm.engine.loaded.group.size == 2
    with cpm_gen.load(EMBEDDED, tensor_parallel="auto") as llm:
        assert llm.engine.loaded.group.size == 1


@pytest.mark.slow
def test_a_program_that_forgets_to_close_ends_well_and_leaves_nothing(tmp_path: Path) -> None:
    code = "import cpm_gen; m = cpm_gen.load(tensor_parallel=2); s = m.stream('春', max_new_tokens=9); next(s); raise SystemExit(3)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=120, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert (run.returncode, run.stderr) == (3, b"")
    assert [p for p in tmp_path.iterdir() if p.name.startswith("cpm-gen")] == []


@pytest.mark.slow
def test_ranks_run_nothing_from_the_current_folder(tmp_path: Path) -> None:
    for name in ("yaml", "json", "numpy", "cpm_gen"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise ImportError('x')\n")
    script = Path(sys.executable).with_name("cpm-gen")
    words = [str(script)] if script.exists() else [sys.executable, "-P", "-m", "cpm_gen"]
    run = subprocess.run([*words, *GREEDY, "--tensor-parallel", "2"], capture_output=True, timeout=120, cwd=tmp_path)
    assert run.returncode == 0, run.stderr.decode()
    assert not (tmp_path / "ran").exists()


def test_the_environment_neither_leads_ranks_astray_nor_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "no-such-interface")
    before = dict(os.environ)
    with cpm_gen.load(random_checkpoint(tmp_path), tensor_parallel=2) as llm:
        assert len(llm.score([1, 2])) == 2
    assert dict(os.environ) == before


def test_leftovers_of_a_launcher_are_a_mistake_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(cpm_gen.ConfigError, match="MASTER_ADDR"):
        cpm_gen.load()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(cpm_gen.ConfigError, match="numbers"):
        cpm_gen.load()
