"""Checkpoints of CPM-1: finding, verifying, loading a rank's slices at any degree, saving.

Layout: ``DIR/latest_checkpointed_iteration.txt`` names an iteration (or ``release``); the shards are
``DIR/<iteration>/mp_rank_XX_model_states.pt``. Opening reads no tensor; :func:`load_into` copies this rank's slices, one tensor at a
time, from the mapped shards that hold them: peak host memory is the rank's slice plus the pages of one tensor.
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
from torch import Tensor, nn

from cpm_gen import partition
from cpm_gen.config import ModelSize
from cpm_gen.errors import CheckpointError
from cpm_gen.layers import Matrix
from cpm_gen.unpickle import SavedFile, TensorRef, is_plain

TRACKER = "latest_checkpointed_iteration.txt"
_SHARD = re.compile(r"^mp_rank_(\d+)_model_states\.pt$")
_LAYER = re.compile(r"^transformer\.layers\.(\d{1,4})\.")
_ANCHOR = "word_embeddings.weight"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def shard_name(rank: int) -> str:
    """File name of a rank's shard."""
    return f"mp_rank_{rank:02d}_model_states.pt"


@dataclass
class Shard:
    """One rank's file. ``tensors`` are the network's, by their names in :data:`cpm_gen.partition.TABLE`."""

    path: Path
    content: dict[str, Any]
    tensors: dict[str, TensorRef]
    notes: list[str]


@dataclass
class Checkpoint:
    """An opened, verified checkpoint. Sizes come from the tensors; heads cannot (see :mod:`cpm_gen.heads`)."""

    folder: Path
    iteration: str
    shards: list[Shard]
    layers: int
    hidden: int
    vocabulary: int
    positions: int
    dtype: torch.dtype

    @property
    def degree(self) -> int:
        """How many ranks it was saved for."""
        return len(self.shards)

    @property
    def notes(self) -> list[str]:
        """Globals that the files named and that were dropped unseen."""
        return sorted({note for shard in self.shards for note in shard.notes})

    def size(self, heads: int) -> ModelSize:
        """The network's sizes with the number of heads filled in."""
        return ModelSize(self.layers, self.hidden, heads, self.vocabulary, self.positions)

    def shape(self, name: str) -> tuple[int, ...]:
        """Whole shape of a tensor."""
        return partition.whole_shape(name, vocabulary=self.vocabulary, positions=self.positions, hidden=self.hidden)

    def sources(self, name: str, rank: int, degree: int) -> Iterator[tuple[TensorRef, int | None, int, int, int]]:
        """What ``rank`` of ``degree`` copies for tensor ``name``: (reference, dim, from, to, length); dim None: all of it."""
        cut = partition.cut_of(name)
        assert cut is not None
        if cut.dim is None:
            yield self.shards[rank * self.degree // degree].tensors[name], None, 0, 0, 0
            return
        for p in partition.pieces(cut, self.shape(name)[cut.dim], self.degree, degree, rank):
            yield self.shards[p.source].tensors[name], cut.dim, p.source_start, p.target_start, p.length

    def copy_slice(self, name: str, rank: int, degree: int, out: Tensor) -> None:
        """Fill ``out`` with what ``rank`` of ``degree`` holds of ``name``, converted to its dtype and device."""
        for ref, dim, source, target, length in self.sources(name, rank, degree):
            view = ref.view()
            if dim is None:
                out.copy_(view)
            else:
                out.narrow(dim, target, length).copy_(view.narrow(dim, source, length))
            ref.release()

    def slice_shape(self, name: str, degree: int) -> tuple[int, ...]:
        """Shape that a rank of ``degree`` holds of ``name``."""
        cut = partition.cut_of(name)
        assert cut is not None
        return partition.rank_shape(cut, self.shape(name), degree)


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
    expected = list(partition.names(layers))
    degree = len(shards)
    partition.check_degree(
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


def verify_replicas(checkpoint: Checkpoint) -> None:
    """Check that tensors which every rank holds are the same, bit for bit, in all shards; raises CheckpointError."""
    for name in partition.names(checkpoint.layers):
        cut = partition.cut_of(name)
        if cut is None or cut.dim is not None:
            continue
        first = checkpoint.shards[0].tensors[name]
        reference = bits(first.view())
        for shard in checkpoint.shards[1:]:
            ref = shard.tensors[name]
            if ref.dtype != first.dtype or not torch.equal(bits(ref.view()), reference):
                raise CheckpointError(
                    f"{shard.path}: {name} differs from {checkpoint.shards[0].path.name}'s, but every rank must hold the same"
                )
            ref.release()
        first.release()


def bits(x: Tensor) -> Tensor:
    """``x`` as integers of the same width, for comparisons in which NaN equals itself."""
    return x.contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])


def load_into(model: nn.Module, checkpoint: Checkpoint, *, rank: int, degree: int) -> None:
    """Fill every parameter of a rank's ``model`` from the shards, whatever degree they were saved at.

    Strict: a parameter without a tensor, a tensor without a parameter, or a shape that differs raises CheckpointError.
    """
    parameters = dict(model.named_parameters())
    expected = set(partition.names(checkpoint.layers))
    if parameters.keys() != expected:
        odd = sorted(parameters.keys() ^ expected)[0]
        raise CheckpointError(f"{checkpoint.folder}: network and checkpoint do not have the same tensors ({odd})")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if tuple(parameter.shape) != checkpoint.slice_shape(name, degree):
                raise CheckpointError(
                    f"{checkpoint.folder}: {name} is {list(parameter.shape)} in the network, "
                    f"{list(checkpoint.slice_shape(name, degree))} in the checkpoint"
                )
            if parameter.dtype != torch.int8:
                checkpoint.copy_slice(name, rank, degree, parameter.data)
                continue
            matrix = model.get_submodule(name.removesuffix(".weight"))
            assert isinstance(matrix, Matrix)
            values = torch.empty(parameter.shape, device=parameter.device)
            checkpoint.copy_slice(name, rank, degree, values)
            matrix.quantize(values)


def save_checkpoint(folder: Path, state: Mapping[str, Tensor], *, degree: int, iteration: int) -> None:
    """Write a whole ``state`` (names of the table, uncut tensors) as a checkpoint of ``degree`` shards in ``folder``."""
    directory = folder / str(iteration)
    directory.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[Tensor]] = {}
    for name, tensor in state.items():
        cut = partition.cut_of(name)
        if cut is None:
            raise CheckpointError(f"{name}: not a tensor of a CPM network")
        parts[name] = partition.split(cut, tensor, degree)
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
