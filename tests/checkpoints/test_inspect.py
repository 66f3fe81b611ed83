"""What ``inspect`` says, against arithmetic of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cpm_gen.checkpoints.formats.megatron_layout import TRACKER, shard_name
from cpm_gen.checkpoints.inspect import describe, rank_numbers
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.cli.inspect_table import to_text
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.errors import CheckpointError
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.parallel.group import TensorParallel
from tests.random_networks import SMALL, random_checkpoint, random_state


def rank_weights(size: ModelSize, degree: int) -> int:
    """Parameters that one rank holds, written out."""
    h, p = size.hidden, degree
    cut = (size.vocabulary * h + size.layers * (3 * h * h + 3 * h + h * h + 4 * h * h + 4 * h + 4 * h * h)) // p
    copied = size.positions * h + size.layers * (2 * h + h + 2 * h + h) + 2 * h
    return cut + copied


def window_numbers(size: ModelSize, degree: int) -> int:
    """Keys and values of one full window in one rank's heads."""
    return 2 * size.layers * size.positions * (size.heads // degree) * (size.hidden // size.heads)


@pytest.mark.parametrize("degree", [1, 4])
def test_the_numbers_are_right(tmp_path: Path, degree: int) -> None:
    said = describe(open_checkpoint(random_checkpoint(tmp_path, degree=degree, dtype=torch.float16)))
    assert said["path"] == str(tmp_path)
    assert said["iteration"] == "7"
    assert said["degree"] == degree
    assert said["dtype"] == "float16"
    sizes = {k: said[k] for k in ("layers", "hidden", "heads", "vocabulary", "positions")}
    assert sizes == {"layers": 2, "hidden": 32, "heads": 8, "vocabulary": 120, "positions": 16}
    assert said["parameters"] == sum(t.numel() for t in random_state().values()) == SMALL.parameters
    assert said["possible_degrees"] == [1, 2, 4, 8]
    assert said["memory"].keys() == {"1", "2", "4", "8"}
    for ranks, need in said["memory"].items():
        for kind, width in (("float32", 4), ("float16", 2)):
            assert need[kind]["weights_bytes"] == width * rank_weights(SMALL, int(ranks))
            assert need[kind]["window_bytes"] == width * window_numbers(SMALL, int(ranks))
        assert need["int8"]["window_bytes"] == need["float16"]["window_bytes"]
    assert said["dropped"] == []


def test_the_need_in_int8_is_that_of_a_quantized_network(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path))
    model = TorchModel(
        checkpoint.size(8), TensorParallel(), dtype=torch.float32, device=torch.device("cpu"), quantized=True
    )
    held = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    assert describe(checkpoint)["memory"]["1"]["int8"]["weights_bytes"] == held


def test_a_published_size_needs_what_its_checkpoint_does(tmp_path: Path) -> None:
    assert rank_numbers(open_checkpoint(random_checkpoint(tmp_path)), 1) == SMALL.numbers()


def test_a_degree_that_cannot_be_has_no_memory(tmp_path: Path) -> None:
    size = ModelSize(layers=1, hidden=48, heads=6, vocabulary=90, positions=8)
    said = describe(open_checkpoint(random_checkpoint(tmp_path, size)))
    assert said["possible_degrees"] == [1, 2, 3, 6]
    assert list(said["memory"]) == ["1", "2", "3", "4", "6", "8"]
    assert said["memory"]["2"] is not None
    assert said["memory"]["4"] is None
    assert said["memory"]["8"] is None
    assert "cannot be cut so" in to_text(said)


def test_unknown_heads_are_said_to_be_unknown_and_can_be_given(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    (folder / "config.json").unlink()
    checkpoint = open_checkpoint(folder)
    assert describe(checkpoint)["heads"] is None
    assert "give --heads" in to_text(describe(checkpoint))
    said = describe(checkpoint, heads=4)
    assert (said["heads"], said["possible_degrees"]) == (4, [1, 2, 4])
    with pytest.raises(CheckpointError, match=": 5 heads do not divide"):
        describe(checkpoint, heads=5)


def test_heads_in_config_json_that_cannot_be_are_refused(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    (folder / "config.json").write_text('{"heads": 5}')
    with pytest.raises(CheckpointError, match=r"config\.json: 5 heads do not divide"):
        describe(open_checkpoint(folder))
    assert describe(open_checkpoint(folder), heads=4)["heads"] == 4


def test_replicas_that_differ_are_refused(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path, degree=2)
    path = folder / "7" / shard_name(1)
    content = torch.load(path)
    content["module"]["position_embeddings.weight"][0, 0] += 1
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"mp_rank_01.*position_embeddings\.weight differs"):
        describe(open_checkpoint(folder))


class Unknown:
    """What inspect must report and never load."""


def test_dropped_globals_are_listed_once(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path, degree=2)
    for rank in range(2):
        path = folder / "7" / shard_name(rank)
        torch.save({**torch.load(path), "args": [Unknown(), Unknown()]}, path)
    said = describe(open_checkpoint(folder))
    assert said["dropped"] == [f"{__name__}.Unknown"]
    assert f"{__name__}.Unknown (named in the files, never loaded)" in to_text(said)


def test_the_text_for_a_person(tmp_path: Path) -> None:
    text = to_text(describe(open_checkpoint(random_checkpoint(tmp_path, degree=2))))
    lines = text.splitlines()
    assert "checkpoint  " + str(tmp_path) in lines
    assert "saved for   2 ranks, float32" in lines
    assert "parameters  29,824" in lines  # 136 * 32 + 2 * (12 * 32² + 13 * 32) + 2 * 32
    assert "can run on  1, 2, 4, 8 ranks" in lines
    assert any(line.split()[:4] == ["1", "119", "kB", "+"] for line in lines)  # 29824 * 4 bytes


def test_the_reference_checkpoint(reference: Path) -> None:
    said = describe(open_checkpoint(reference / "original" / "tinyA"))
    # 64 is none of CPM-1's hidden sizes, and there is no config.json beside
    assert said["heads"] is None
    size = ModelSize(layers=3, hidden=64, heads=8, vocabulary=30000, positions=64)
    assert said["parameters"] == size.parameters == rank_weights(size, 1)
    assert (said["degree"], said["iteration"], said["dtype"], said["dropped"]) == (2, "1234", "float16", [])


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cpm_gen", "inspect", *words],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_the_command_writes_one_json_object(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    result = run(str(folder), "--json")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    # no vocabulary lies beside it
    assert json.loads(result.stdout) == {**describe(open_checkpoint(folder)), "tokenizer": None}


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    (folder / TRACKER).write_text("soon")
    result = run(str(folder), "--json")
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert f"{folder / TRACKER}: must hold an iteration or 'release', not 'soon'" in result.stderr
