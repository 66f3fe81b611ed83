"""Checkpoints of a run: a half-written one is passed over."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cpm_gen.errors import InputError
from cpm_gen.finetuning.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.begin({"seed": 1})
    for step in (10, 20, 30):
        folder.checkpoint(step).mkdir()
        (folder.checkpoint(step) / "model.safetensors").write_bytes(b"weights" * step)
        (folder.checkpoint(step) / "trainer_state.json").write_text("{}")
        folder.seal(step, step / 10)
    return folder


def test_the_newest_complete_checkpoint_is_found(run: RunFolder) -> None:
    assert run.begun
    assert run.settings()["seed"] == 1
    assert run.newest() == (30, 3.0)
    assert run.drop_incomplete(30) == []


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def unseal(folder: Path) -> None:
    (folder / "complete.json").unlink()


def lose(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def tear(folder: Path) -> None:
    path = folder / "complete.json"
    path.write_text(path.read_text()[:20])


def other(folder: Path) -> None:
    (folder / "complete.json").write_text(json.dumps([1]))


@pytest.mark.parametrize("damage", [cut, unseal, lose, tear, other])
def test_a_damaged_checkpoint_is_passed_over_and_removed(run: RunFolder, damage: Callable[[Path], None]) -> None:
    damage(run.checkpoint(30))
    assert run.newest() == (20, 2.0)
    assert run.drop_incomplete(20) == [30]
    assert not run.checkpoint(30).exists()
    assert run.newest() == (20, 2.0)


def test_without_a_checkpoint_a_run_begins_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin({})
    assert folder.newest() is None


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert not folder.begun
    with pytest.raises(InputError, match="no run to continue there; leave --resume out"):
        folder.settings()
    folder.begin({})
    path = folder.checkpoints / "run.json"
    path.write_text("{")
    with pytest.raises(InputError, match="damaged; start the run again with --force"):
        folder.settings()
    path.write_text('{"version": 99}')
    with pytest.raises(InputError, match="another version"):
        folder.settings()
