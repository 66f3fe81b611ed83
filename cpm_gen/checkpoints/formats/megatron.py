"""Megatron/DeepSpeed checkpoints: ``mp_rank_XX_model_states.pt`` shards, read and written."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.checkpoint import Checkpoint, Shard
from cpm_gen.checkpoints.formats.torch_file import SavedFile, TensorRef, is_plain
from cpm_gen.errors import CheckpointError

TRACKER = "latest_checkpointed_iteration.txt"


_SHARD = re.compile(r"^mp_rank_(\d+)_model_states\.pt$")


_LAYER = re.compile(r"^transformer\.layers\.(\d{1,4})\.")


_ANCHOR = "word_embeddings.weight"


_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def shard_name(rank: int) -> str:
    """File name of a rank's shard."""
    return f"mp_rank_{rank:02d}_model_states.pt"


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Find the shards under ``path``, read their pickles, and check that they make one network.

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
    return _verify(folder, iteration, shards)


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
    anchors = sorted((n for n in flat if n == _ANCHOR or n.endswith("." + _ANCHOR)), key=lambda n: (n.count("."), n))
    if not anchors:
        raise CheckpointError(f"{path}: no tensor {_ANCHOR} in it, so no CPM network")
    under_module = [n for n in anchors if n.startswith("module.")]
    prefix = (under_module or anchors)[0].removesuffix(_ANCHOR)
    tensors = {n.removeprefix(prefix): t for n, t in flat.items() if n.startswith(prefix)}
    if not prefix:  # a bare state dict: what DeepSpeed keeps beside the network is not part of it
        tensors = {n: t for n, t in tensors.items() if n.startswith("transformer.") or "embeddings" in n}
    return Shard(path, saved.content, tensors, saved.notes)


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, TensorRef]]:
    """Tensors under nested dictionaries, by dotted names."""
    for key, value in tree.items():
        if isinstance(value, TensorRef):
            yield f"{prefix}{key}", value
        elif isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")


def _verify(folder: Path, iteration: str, shards: list[Shard]) -> Checkpoint:
    first = shards[0]
    for name in (_ANCHOR, "position_embeddings.weight"):
        ref = first.tensors.get(name)
        if ref is None:
            raise CheckpointError(f"{first.path}: tensor {name} is missing")
        if len(ref.shape) != 2:
            raise CheckpointError(f"{first.path}: {name} has shape {list(ref.shape)}, not two dimensions")
    rows, hidden = first.tensors[_ANCHOR].shape
    layers = 1 + max((int(m[1]) for n in first.tensors if (m := _LAYER.match(n))), default=-1)
    checkpoint = Checkpoint(
        folder=folder,
        iteration=iteration,
        shards=shards,
        layers=layers,
        hidden=hidden,
        vocabulary=rows * len(shards),
        positions=first.tensors["position_embeddings.weight"].shape[0],
        dtype=first.tensors[_ANCHOR].dtype,
    )
    expected = list(tensor_table.names(layers))
    degree = len(shards)
    tensor_table.check_degree(
        degree, vocabulary=checkpoint.vocabulary, heads=None, hidden=hidden, where=f"{folder}: {degree} shards"
    )
    for shard in shards:
        if missing := [n for n in expected if n not in shard.tensors]:
            raise CheckpointError(f"{shard.path}: tensor {missing[0]} is missing" + _more(missing))
        known = set(expected)
        if unexpected := [n for n in shard.tensors if n not in known]:
            raise CheckpointError(f"{shard.path}: unexpected tensor {unexpected[0]!a}" + _more(unexpected))
        for name in expected:
            ref, wanted = shard.tensors[name], checkpoint.slice_shape(name, degree)
            if ref.shape != wanted:
                raise CheckpointError(
                    f"{shard.path}: {name} has shape {list(ref.shape)}, but {list(wanted)} is what one of {degree} ranks "
                    f"holds with vocabulary {checkpoint.vocabulary}, positions {checkpoint.positions}, hidden {hidden}"
                )
            if ref.dtype not in _FLOATS:
                raise CheckpointError(f"{shard.path}: {name} is {ref.dtype}, not float32, float16 or bfloat16")
            if ref.dtype != first.tensors[name].dtype:
                raise CheckpointError(
                    f"{shard.path}: {name} is {ref.dtype}, but {first.tensors[name].dtype} in {first.path.name}"
                )
    return checkpoint


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
    """A copy of a shard's content as plain values: tensors read into memory of their own, dropped objects left out."""
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
