"""Shards in safetensors: the same network as in torch.save files, and preferred to them."""

import json
from pathlib import Path

import pytest
import torch

import cpm_gen
from cpm_gen.checkpoints.formats.megatron_layout import safetensors_shard_name, shard_name
from cpm_gen.checkpoints.inspect import describe
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.errors import CheckpointError
from cpm_gen.runtime.reshard import reshard
from tests.huggingface_folders import write_safetensors
from tests.random_networks import random_checkpoint


def with_safetensors(folder: Path, *, degree: int = 2, world: int = 2, dtype: torch.dtype = torch.float16) -> Path:
    """A random checkpoint whose shards lie there in both forms."""
    random_checkpoint(folder, degree=degree, dtype=dtype)
    for rank in range(degree):
        module = torch.load(folder / "7" / shard_name(rank))["module"]
        metadata = {"mp_world_size": str(world), "iteration": "7"}
        write_safetensors(folder / "7" / safetensors_shard_name(rank), module, metadata)
    return folder


def test_they_are_preferred_and_hold_the_same_network(tmp_path: Path) -> None:
    plain = open_checkpoint(random_checkpoint(tmp_path / "plain", degree=2, dtype=torch.float16))
    folder = with_safetensors(tmp_path / "both")
    for rank in range(2):
        (folder / "7" / shard_name(rank)).write_bytes(b"not looked at")
    found = open_checkpoint(folder)
    assert [path.name for path in found.files] == ["mp_rank_00.safetensors", "mp_rank_01.safetensors"]
    assert (found.degree, found.iteration, found.dtype) == (2, "7", torch.float16)
    assert describe(found)["format"] == "Megatron shards, safetensors"
    for name, tensor in plain.tensors.items():
        for a, b in zip(tensor.shards, found.tensors[name].shards, strict=True):
            assert torch.equal(a.view(), b.view()), name
    assert open_checkpoint(folder / "7").degree == 2


def test_they_load_and_reshard(tmp_path: Path) -> None:
    folder = with_safetensors(tmp_path / "both", dtype=torch.float32)
    shards = reshard(folder, 4, tmp_path / "four")
    assert torch.load(shards / "7" / shard_name(3))["mp_world_size"] == 4
    with cpm_gen.load(random_checkpoint(tmp_path / "plain", degree=2), tensor_parallel=1) as llm:
        want = llm.score(range(12))
    for again in (folder, shards):
        with cpm_gen.load(again, tensor_parallel=1) as llm:
            assert llm.score(range(12)) == want


def test_one_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = with_safetensors(tmp_path)
    (folder / "7" / safetensors_shard_name(0)).unlink()
    with pytest.raises(CheckpointError, match=r"shard mp_rank_00\.safetensors is missing \(there is one for rank 1\)"):
        open_checkpoint(folder)


def test_a_number_of_ranks_in_the_metadata_is_checked(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"mp_rank_00\.safetensors: saved for 3 ranks, but .* holds 2 shards"):
        open_checkpoint(with_safetensors(tmp_path, world=3))


def test_config_json_beside_shards_tells_the_variant_and_what_is_refused(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    (folder / "config.json").write_text(json.dumps({"n_head": 8, "activation_function": "gelu"}))
    assert open_checkpoint(folder).variant.gelu == "erf"
    (folder / "config.json").write_text(json.dumps({"n_head": 8, "activation_function": "relu"}))
    with pytest.raises(CheckpointError, match=r"config\.json: activation_function is 'relu'"):
        open_checkpoint(folder)
