"""Runs that are stopped or killed, and go on."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.finetune_options import finetune_options
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import CheckpointError
from tests.cli.conftest import Run
from tests.finetuning.runs import flags, request_for, trained, whole
from tests.waiting import until

pytest.importorskip("accelerate")
BEGIN = Callable[..., subprocess.Popen[Any]]


def test_a_checkpoint_is_complete_while_the_next_is_written(
    model: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the best one is older: a kill while the newest is sealed costs the steps since the one before."""
    from cpm_gen.finetuning.run_folder import RunFolder

    complete = []
    seal = RunFolder.seal

    def sealing(folder: RunFolder, step: int, seconds: float) -> None:
        complete.append((step, folder.newest()))
        seal(folder, step, seconds)

    monkeypatch.setattr(RunFolder, "seal", sealing)
    given = {"steps": 25, "save_every": 5, "patience": 20, "warmup": 0.95, "learning_rate": 0.9, "dropout": 0.0}
    request = request_for(model, songs, **given)
    _, outcome, steps = trained(request, tmp_path / "out")
    held = [s.held_out for s in steps if s.held_out is not None]
    assert outcome.best < 20, held  # else each checkpoint is the best one
    assert [(step, before and before[0]) for step, before in complete] == [
        (5, None),
        (10, 5),
        (15, 10),
        (20, 15),
        (25, 20),
    ]


def test_what_changes_rounding_is_taken_from_the_run(
    model: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads, windows at once and checkpointing, where the machine has more cores and memory now."""
    from cpm_gen.finetuning import memory
    from cpm_gen.finetuning.prepare import prepare
    from cpm_gen.finetuning.run_folder import RunFolder

    request = request_for(model, songs, steps=2)
    request = dataclasses.replace(request, options=dataclasses.replace(request.options, threads=None))
    least = 16 * sum(values.numel() for values in whole(model).values())
    for resume, cores, free in ((False, 1, least), (True, 3, 10**12)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        prepared = prepare(request, RunFolder(tmp_path / "out"), resume=resume)
        assert (torch.get_num_threads(), prepared.setup.memory) == (1, memory.MemoryPlan(1, True))


def begun(begin: BEGIN, words: list[str], folder: Path, log: Path) -> subprocess.Popen[Any]:
    with log.open("w") as err:
        return begin([sys.executable, "-m", "cpm_gen", *words], stderr=err, stdout=subprocess.DEVNULL)


def reached(folder: Path, step: int) -> bool:
    path = folder / "training.jsonl"
    return path.exists() and f'{{"step": {step}, "loss"' in path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "more", "stops"),
    [
        (signal.SIGKILL, (), (33, 95)),
        (signal.SIGINT, (), (33, 95)),
        (signal.SIGKILL, ("--optimizer", "muon"), (33,)),
        (signal.SIGKILL, ("--lora", 2), (33,)),
    ],
)
def test_a_run_goes_on_to_the_same_weights(
    run: Run,
    begin: BEGIN,
    model: Path,
    songs: Path,
    tmp_path: Path,
    number: int,
    more: tuple[Any, ...],
    stops: tuple[int, ...],
) -> None:
    words = ("--steps", 200 if stops[-1] > 33 else 100, "--save-every", 10, "--dropout", 0.1, "--patience", 0, *more)
    status, said, err = run(*flags(model, songs, tmp_path / "whole", *words))
    assert status == 0, err
    out, log = tmp_path / "out", tmp_path / "log"
    for step in stops:
        process = begun(begin, flags(model, songs, out, *(words if step == 33 else ["--resume"])), out, log)
        until(lambda step=step: reached(out, step), patience=300)
        process.send_signal(number)
        assert process.wait(60) == (-9 if number == signal.SIGKILL else 130)
        if number == signal.SIGINT:
            assert "which is saved; cpm-gen finetune --resume --output" in log.read_text()
        with pytest.raises(
            CheckpointError, match=f"has not ended; cpm-gen finetune --resume --output {re.escape(str(out))}"
        ):
            open_checkpoint(out)  # a folder has a model when the run has ended
        newest = max(out.glob("checkpoints/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
        if step == 95 and number == signal.SIGKILL:  # a half-written one
            path = newest / "optimizer.pt"
            path.write_bytes(path.read_bytes()[:100])
    status, again, err = run("finetune", "--resume", "--output", str(out), "--json")
    assert status == 0, err
    assert json.loads(again)["weights_sha256"] == json.loads(said)["weights_sha256"]
    assert not (out / "checkpoints").exists()
    status, _, err = run("finetune", "--resume", "--output", str(out))
    assert (status, err.count("\n")) == (2, 1) and "no run to continue" in err


def test_settings_survive_a_restart() -> None:
    from cpm_gen.finetuning.prepare import Request

    options = finetune_options({"steps": "7", "lora": "4", "save_every": "2"}, "novel")
    request = Request(ModelOptions(model="/CPM", heads=16), "novel", ("/a", "/b"), True, 3, options)
    assert Request.from_json(json.loads(json.dumps(request.to_json()))) == request
    assert dataclasses.asdict(options)["epochs"] is None
    assert os.fspath(Path("/a")) == request.data[0]
