"""Megatron/DeepSpeed checkpoints: one file for each rank of the run that saved them.

Layout: ``DIR/latest_checkpointed_iteration.txt`` names an iteration (or ``release``); the shards are
``DIR/<iteration>/mp_rank_XX_model_states.pt``, written by ``torch.save``.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.checkpoint import Checkpoint, StoredTensor
from cpm_gen.checkpoints.formats.torch_file import SavedFile, TensorRef, is_plain
from cpm_gen.errors import CheckpointError

TRACKER = "latest_checkpointed_iteration.txt"
_SHARD = re.compile(r"^mp_rank_(\d+)_model_states\.pt$")
_WORDS, _POSITIONS = "word_embeddings.weight", "position_embeddings.weight"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Shard:
    """One rank's file. content: what was saved, tensors as TensorRef. tensors: the network's, by their names in the table."""

    path: Path
    content: dict[str, Any]
    tensors: dict[str, TensorRef]
    notes: list[str]


@dataclass(frozen=True)
class MegatronCheckpoint:
    """An opened checkpoint together with its files' contents, for resharding."""

    checkpoint: Checkpoint
    shards: list[Shard]


def shard_name(rank: int) -> str:
    """File name of a rank's shard."""
    return f"mp_rank_{rank:02d}_model_states.pt"


def open_shards(path: str | Path) -> MegatronCheckpoint:
    """Find the shards under ``path``, read their pickles, and verify that they form one network.

    Raises CheckpointError, naming file and tensor: nothing found, a shard missing, truncated or damaged, keys missing or
    unexpected, shapes or dtypes that disagree.
    """
    try:
        folder, iteration, directory = _find(Path(path))
        files = {int(m[1]): p for p in directory.iterdir() if (m := _SHARD.match(p.name))}
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    if not files:
        raise CheckpointError(f"{directory}: no {shard_name(0)} there")
    missing = next(r for r in range(len(files) + 1) if r not in files)
    if missing < max(files):
        raise CheckpointError(
            f"{directory}: shard {shard_name(missing)} is missing (there is one for rank {max(files)})"
        )
    shards = [_read_shard(files[rank]) for rank in sorted(files)]
    for shard in shards:
        saved_for = shard.content.get("mp_world_size")
        if isinstance(saved_for, int) and saved_for != len(shards):
            raise CheckpointError(
                f"{shard.path}: saved for {saved_for} ranks, but {directory} holds {len(shards)} shards"
                + (f"; {shard_name(len(shards))} is missing" if saved_for > len(shards) else "")
            )
    return MegatronCheckpoint(_describe(folder, iteration, shards), shards)


def _find(folder: Path) -> tuple[Path, str, Path]:
    """The checkpoint's folder, the iteration, and the folder of its shards."""
    if not folder.exists():
        raise CheckpointError(f"{folder}: no such folder; --model takes the folder of {TRACKER}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: not a folder; --model takes the folder of {TRACKER}")
    tracker = folder / TRACKER
    if not tracker.is_file():
        if any(_SHARD.match(p.name) for p in folder.iterdir()):  # the iteration's own folder was given
            name, parent = folder.resolve().name, folder.resolve().parent
            if not _is_iteration(name):
                return folder, "release", folder
            return (parent if (parent / TRACKER).is_file() else folder), name, folder
        raise CheckpointError(f"{folder}: no {TRACKER} there, so no CPM checkpoint")
    try:
        word = tracker.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        word = "?"
    if not _is_iteration(word):
        raise CheckpointError(f"{tracker}: must hold an iteration or 'release', not {word[:40]!r}")
    directory = folder / word
    if not directory.is_dir():
        raise CheckpointError(f"{tracker}: names iteration {word}, but there is no folder {directory}")
    return folder, word, directory


def _is_iteration(word: str) -> bool:
    return word == "release" or word.isdecimal()


def _read_shard(path: Path) -> Shard:
    saved = SavedFile(path)
    if not isinstance(saved.content, dict):
        raise CheckpointError(f"{path}: holds a {type(saved.content).__name__}, not a checkpoint's dictionary")
    flat = dict(_flatten(saved.content))
    anchors = sorted((n for n in flat if n == _WORDS or n.endswith("." + _WORDS)), key=lambda n: (n.count("."), n))
    if not anchors:
        raise CheckpointError(f"{path}: no tensor {_WORDS} in it, so no CPM network")
    under_module = [n for n in anchors if n.startswith("module.")]
    prefix = (under_module or anchors)[0].removesuffix(_WORDS)
    tensors = {n.removeprefix(prefix): t for n, t in flat.items() if n.startswith(prefix)}
    if not prefix:  # a bare state dict: what DeepSpeed stores besides the network is not part of it
        tensors = {n: t for n, t in tensors.items() if n.startswith("transformer.") or "embeddings" in n}
    return Shard(path, saved.content, tensors, saved.notes)


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, TensorRef]]:
    """Tensors in nested dictionaries, by dotted names."""
    for key, value in tree.items():
        if isinstance(value, TensorRef):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")


def _describe(folder: Path, iteration: str, shards: list[Shard]) -> Checkpoint:
    """The checkpoint that the shards make together; raises CheckpointError if they do not."""
    first, degree = shards[0], len(shards)
    for name in (_WORDS, _POSITIONS):
        ref = first.tensors.get(name)
        if ref is None:
            raise CheckpointError(f"{first.path}: tensor {name} is missing")
        if len(ref.shape) != 2:
            raise CheckpointError(f"{first.path}: {name} has shape {list(ref.shape)}, not two dimensions")
    rows, hidden = first.tensors[_WORDS].shape
    vocabulary, positions = rows * degree, first.tensors[_POSITIONS].shape[0]
    numbers = [n for name in first.tensors if (n := tensor_table.split_layer(name)[0]) is not None]
    layers = 1 + max(numbers, default=-1)
    tensor_table.check_degree(
        degree, vocabulary=vocabulary, heads=None, hidden=hidden, where=f"{folder}: {degree} shards"
    )
    expected = list(tensor_table.names(layers))
    tensors = {}
    for name in expected:
        cut = tensor_table.cut_of(name)
        assert cut is not None
        shape = tensor_table.whole_shape(name, vocabulary=vocabulary, positions=positions, hidden=hidden)
        tensors[name] = StoredTensor(cut, shape, [s.tensors[name] for s in shards if name in s.tensors])
    for shard in shards:
        if missing := [n for n in expected if n not in shard.tensors]:
            raise CheckpointError(f"{shard.path}: tensor {missing[0]} is missing" + _more(missing))
        if unexpected := [n for n in shard.tensors if n not in tensors]:
            raise CheckpointError(f"{shard.path}: unexpected tensor {unexpected[0]!a}" + _more(unexpected))
        for name, tensor in tensors.items():
            ref, wanted = shard.tensors[name], tensor_table.rank_shape(tensor.cut, tensor.shape, degree)
            if ref.shape != wanted:
                raise CheckpointError(
                    f"{shard.path}: {name} has shape {list(ref.shape)}, but {list(wanted)} is what one of {degree} ranks "
                    f"holds with vocabulary {vocabulary}, positions {positions}, hidden {hidden}"
                )
            if ref.dtype not in _FLOATS:
                raise CheckpointError(f"{shard.path}: {name} is {ref.dtype}, not float32, float16 or bfloat16")
            if ref.dtype != first.tensors[name].dtype:
                raise CheckpointError(
                    f"{shard.path}: {name} is {ref.dtype}, but {first.tensors[name].dtype} in {first.path.name}"
                )
    return Checkpoint(
        folder=folder,
        iteration=iteration,
        degree=degree,
        layers=layers,
        hidden=hidden,
        vocabulary=vocabulary,
        positions=positions,
        dtype=first.tensors[_WORDS].dtype,
        files=[shard.path for shard in shards],
        notes=sorted({note for shard in shards for note in shard.notes}),
        tensors=tensors,
    )


def _more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def save_checkpoint(folder: Path, state: Mapping[str, Tensor], *, degree: int, iteration: int) -> None:
    """Write a whole ``state`` (names of the table, uncut tensors) as a checkpoint of ``degree`` shards in ``folder``."""
    directory = folder / str(iteration)
    directory.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in state.items():
        cut = tensor_table.cut_of(name)
        if cut is None:
            raise CheckpointError(f"{name}: not a tensor of a CPM network")
        parts[name] = tensor_table.split(cut, tensor, degree)
    for rank in range(degree):
        module = collections.OrderedDict((name, parts[name][rank]) for name in state)
        torch.save({"module": module, "mp_world_size": degree, "iteration": iteration}, directory / shard_name(rank))
    (folder / TRACKER).write_text(str(iteration), encoding="utf-8")


def without_dropped(value: Any) -> Any:
    """A copy of a shard's content as plain values: tensors are read into memory, dropped objects are left out."""
    if isinstance(value, TensorRef):
        return value.view().clone()
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray).copy()
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if is_plain(k) and is_plain(v)}
        return type(value)((without_dropped(k), without_dropped(v)) for k, v in kept.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(without_dropped(v) for v in value if is_plain(v))
    return value
