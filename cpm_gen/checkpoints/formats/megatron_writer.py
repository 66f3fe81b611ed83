"""Writes shards: ``mp_rank_XX_model_states.pt`` as CPM-1 has them, or ``mp_rank_XX.safetensors``."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.formats.known_globals import Dropped
from cpm_gen.checkpoints.formats.mapped_file import TensorRef
from cpm_gen.checkpoints.formats.megatron import Shard, without_dropped
from cpm_gen.checkpoints.formats.megatron_layout import TRACKER, safetensors_shard_name, shard_name
from cpm_gen.checkpoints.formats.safetensors_writer import write_safetensors
from cpm_gen.checkpoints.network_config import CONFIG, read_config
from cpm_gen.checkpoints.tensor_to_write import TensorToWrite
from cpm_gen.config.arguments import one_line
from cpm_gen.errors import InputError

ReadSlice = Callable[[str, int], Tensor]  # name, rank: what that rank holds of a tensor


def write_shards(checkpoint: Checkpoint, shards: list[Shard], degree: int, read: ReadSlice, work: Path) -> None:
    """Write ``torch.save`` files, and the tracker and config.json beside them. Memory: one shard.

    shards: the source's, if it has any. What DeepSpeed stores besides the network is copied from the source rank in which the target
    rank's slices begin.
    """
    directory = _begin(checkpoint, degree, work)
    for rank in range(degree):
        slices = {name: read(name, rank) for name in checkpoint.tensors}
        content: dict[str, Any] = {"module": slices, "mp_world_size": degree}
        if shards:
            shard = shards[rank * checkpoint.degree // degree]
            fresh = {id(shard.tensors[name]): values for name, values in slices.items()}
            content = without_dropped(_with(shard.content, fresh, shard.ignored))
            if "mp_world_size" in content:
                content["mp_world_size"] = degree
        with (directory / shard_name(rank)).open("wb") as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:  # torch's writer hides the system's error message
                said = one_line(str(error).partition("\n")[0])
                raise InputError(f"{file.name}: could not be written ({said})") from None


def write_safetensors_shards(
    checkpoint: Checkpoint, degree: int, read: ReadSlice, dtype_of: Callable[[str], torch.dtype], work: Path
) -> None:
    """Write safetensors files, which hold the network alone, and the tracker and config.json beside them. Memory: one tensor."""
    directory = _begin(checkpoint, degree, work)
    metadata = {"mp_world_size": str(degree), "iteration": checkpoint.iteration}
    for rank in range(degree):
        tensors = [_tensor(checkpoint, name, rank, degree, read, dtype_of(name)) for name in checkpoint.tensors]
        write_safetensors(directory / safetensors_shard_name(rank), tensors, metadata)


def _tensor(
    checkpoint: Checkpoint, name: str, rank: int, degree: int, read: ReadSlice, dtype: torch.dtype
) -> TensorToWrite:
    return TensorToWrite(name, checkpoint.slice_shape(name, degree), dtype, lambda: read(name, rank))


def _begin(checkpoint: Checkpoint, degree: int, work: Path) -> Path:
    """Write what stands beside the shards; returns their folder."""
    (work / TRACKER).write_text(checkpoint.iteration, encoding="utf-8")
    _write_config(checkpoint, degree, work)
    directory = work / checkpoint.iteration
    directory.mkdir()
    return directory


def _write_config(checkpoint: Checkpoint, degree: int, work: Path) -> None:
    """Copy config.json, completed by what the shards alone do not tell: padding rows, and that a head is not tied."""
    config = read_config(checkpoint.folder)
    content = {} if config is None else config.content
    needed: dict[str, Any] = {}
    if checkpoint.vocabulary % degree:
        needed["vocab_size"] = checkpoint.vocabulary
    if not checkpoint.variant.tied_head:
        needed["tie_word_embeddings"] = False
    target = work / CONFIG
    if any(content.get(name) != value for name, value in needed.items()):
        target.write_text(json.dumps({**content, **needed}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    elif config is not None:
        shutil.copyfile(config.path, target)


def _with(value: Any, fresh: dict[int, Tensor], ignored: frozenset[int]) -> Any:
    """``value`` with the network's tensors replaced; its nesting, key order and types stay as they are.

    ignored: ids of tensors that are left out.
    """
    if isinstance(value, TensorRef):
        return Dropped() if id(value) in ignored else fresh.get(id(value), value)
    if isinstance(value, dict):
        return type(value)((k, _with(v, fresh, ignored)) for k, v in value.items())
    return value
