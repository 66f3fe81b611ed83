"""Megatron/DeepSpeed checkpoints: one file for each rank of the run that saved them, written by ``torch.save`` or in safetensors.

A ``config.json`` beside them may say how the network differs from CPM-1's (:mod:`cpm_gen.checkpoints.network_config`). Where the files
lie: :mod:`cpm_gen.checkpoints.formats.megatron_layout`.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.checkpoint import Checkpoint, StoredTensor
from cpm_gen.checkpoints.checksums import Checksum
from cpm_gen.checkpoints.formats.known_globals import Dropped
from cpm_gen.checkpoints.formats.mapped_file import TensorRef, same_bits
from cpm_gen.checkpoints.formats.megatron_layout import TRACKER, ZERO_3, Layout, find, shard_name
from cpm_gen.checkpoints.formats.safetensors_file import SafetensorsFile
from cpm_gen.checkpoints.formats.torch_file import SavedFile, is_plain
from cpm_gen.checkpoints.network_config import CONFIG, NetworkConfig, read_config
from cpm_gen.config.model_sizes import CPM_1, NetworkVariant
from cpm_gen.errors import CheckpointError

_WORDS, _POSITIONS, _HEAD = "word_embeddings.weight", "position_embeddings.weight", tensor_table.HEAD
_METADATA = ("mp_world_size", "iteration")  # of a safetensors shard; a torch.save file holds them beside the tensors
_MASK = re.compile(r"transformer\.layers\.[0-9]{1,4}\.attention\.(bias|mask|masked_bias)")
_COMPILED = "_orig_mod."  # torch.compile puts it before the names of what it compiled
_NAME_LENGTH, _HIDDEN, _NOTES = 500, 1 << 20, 100
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Shard:
    """One rank's file.

    path: the file. content: what was saved, tensors as TensorRef. tensors: the network's, by their names in the table. ignored: ids
    of the TensorRefs that add nothing to the network. notes: what is not loaded. checksums: of all tensors in the file.
    """

    path: Path
    content: dict[str, Any]
    tensors: dict[str, TensorRef]
    ignored: frozenset[int]
    notes: list[str]
    checksums: list[Checksum]


@dataclass(frozen=True)
class MegatronCheckpoint:
    """An opened checkpoint together with its files' contents, for resharding."""

    checkpoint: Checkpoint
    shards: list[Shard]


def open_shards(path: str | Path) -> MegatronCheckpoint:
    """Find the shards under ``path``, read their pickles, and verify that they form one network.

    Raises CheckpointError, naming file and tensor: nothing found, a shard missing, truncated or damaged, keys missing or
    unexpected, shapes or dtypes that disagree.
    """
    layout = find(Path(path))
    shards = [_read_shard(file) for file in layout.files]
    for shard in shards:
        saved_for = shard.content.get("mp_world_size")
        if isinstance(saved_for, int) and saved_for != len(shards):
            raise CheckpointError(
                f"{shard.path}: saved for {saved_for} ranks, but {layout.directory} holds {len(shards)} shards"
                + (f"; {shard_name(len(shards))} is missing" if saved_for > len(shards) else "")
            )
    return MegatronCheckpoint(_describe(layout, shards), shards)


def _read_shard(path: Path) -> Shard:
    if path.suffix == ".safetensors":
        file = SafetensorsFile(path)
        numbers = {k: int(v) for k, v in file.metadata.items() if k in _METADATA and re.fullmatch(r"[0-9]{1,18}", v)}
        return _shard(path, {"module": dict(file.tensors), **numbers}, [], [])
    saved = SavedFile(path)
    if not isinstance(saved.content, dict):
        dropped = isinstance(saved.content, Dropped)
        what = ascii(saved.content.origin)[:100] if dropped else type(saved.content).__name__
        raise CheckpointError(f"{path}: holds a {what}, not a checkpoint's dictionary")
    return _shard(path, saved.content, saved.notes, saved.checksums)


def _shard(path: Path, content: dict[str, Any], notes: list[str], checksums: list[Checksum]) -> Shard:
    """The network's tensors in a file's content."""
    flat = _flatten(content, path)
    anchors = sorted((n for n in flat if n == _WORDS or n.endswith("." + _WORDS)), key=lambda n: (n.count("."), n))
    if not anchors:
        raise CheckpointError(f"{path}: no tensor {_WORDS} in it, so no CPM network")
    under_module = [n for n in anchors if n.startswith("module.")]
    prefix = (under_module or anchors)[0].removesuffix(_WORDS)
    version = content.get("checkpoint_version")
    if prefix.endswith("language_model.embedding.") or (isinstance(version, (int, float)) and version > 0):
        raise CheckpointError(
            f"{path}: saved by a newer Megatron-LM, whose tensors have other names and another order of query, key and value; "
            "not supported"
        )
    tensors = {n.removeprefix(prefix): t for n, t in flat.items() if n.startswith(prefix)}
    if not prefix:  # a bare state dict: what DeepSpeed stores besides the network is not part of it
        tensors = {n: t for n, t in tensors.items() if n.startswith("transformer.") or "embeddings" in n or n == _HEAD}
    ignored = _ignored(tensors)
    network = {n: t for n, t in tensors.items() if n not in ignored}
    kept = {id(t) for t in network.values()}
    return Shard(
        path,
        content,
        network,
        frozenset(id(tensors[n]) for n in ignored if id(tensors[n]) not in kept),
        [*notes, *dict.fromkeys(ignored.values())],
        checksums,
    )


def _flatten(content: dict[Any, Any], path: Path) -> dict[str, TensorRef]:
    """Tensors in nested dictionaries, by dotted names. A dictionary that occurs several times is entered once."""
    found: dict[str, TensorRef] = {}
    entered: set[int] = set()

    def enter(tree: dict[Any, Any], prefix: str) -> None:
        if id(tree) in entered:
            return
        entered.add(id(tree))
        for key, value in tree.items():
            if not isinstance(value, (TensorRef, dict)) or type(key) not in (str, int):
                continue
            name = f"{prefix}{key}"
            if len(name) > _NAME_LENGTH:
                raise CheckpointError(f"{path}: a tensor's name has more than {_NAME_LENGTH} characters: {name!a:.60}")
            if isinstance(value, dict):
                enter(value, name + ".")
                continue
            name = name.replace(_COMPILED, "")
            if name in found:
                raise CheckpointError(f"{path}: two tensors are named {name!a}, one of them with {_COMPILED}")
            found[name] = value

    enter(content, "")
    return found


def _ignored(tensors: dict[str, TensorRef]) -> dict[str, str]:
    """Tensors that add nothing to the network, with a note on each: a head tied to the embedding, causal masks."""
    result = {}
    words, head = tensors.get(_WORDS), tensors.get(_HEAD)
    if words is not None and head is not None and same_bits(words, head):
        result[_HEAD] = f"{_HEAD} (equal to {_WORDS})"
    rows = tensors[_POSITIONS].shape[:1] if _POSITIONS in tensors else ()
    for name, tensor in tensors.items():
        if match := _MASK.fullmatch(name):
            square = tensor.shape[-2:] == 2 * rows and math.prod(tensor.shape) == math.prod(2 * rows)
            if square or (match[1] == "masked_bias" and math.prod(tensor.shape) == 1):
                result[name] = f"attention.{match[1]} (causal mask)"
    return result


def _describe(layout: Layout, shards: list[Shard]) -> Checkpoint:
    """The checkpoint that the shards make together; raises CheckpointError if they do not."""
    folder, first, degree = layout.folder, shards[0], len(shards)
    for name in (_WORDS, _POSITIONS):
        ref = first.tensors.get(name)
        if ref is None:
            raise CheckpointError(f"{first.path}: tensor {name} is missing")
        if ref.shape == (0,):
            raise CheckpointError(f"{first.path}: {name} is empty: {ZERO_3}")
        if len(ref.shape) != 2:
            raise CheckpointError(f"{first.path}: {name} has shape {list(ref.shape)}, not two dimensions")
    rows, hidden = first.tensors[_WORDS].shape
    positions = first.tensors[_POSITIONS].shape[0]
    config = read_config(folder)
    variant = CPM_1 if config is None else _variant(config, first)
    vocabulary, padded = _vocabulary(config, rows, degree)
    if hidden > _HIDDEN:
        raise CheckpointError(f"{first.path}: hidden size {hidden}, more than any network has")
    numbers = [n for name in first.tensors if (n := tensor_table.split_layer(name)[0]) is not None]
    layers = 1 + max(numbers, default=-1)
    tensor_table.check_degree(
        degree,
        vocabulary=None if padded else vocabulary,
        heads=None,
        hidden=hidden,
        inner=variant.inner,
        where=f"{folder}: {degree} shards",
    )
    expected = list(tensor_table.names(layers)) + ([] if variant.tied_head else [_HEAD])
    if missing := [n for n in expected if n not in first.tensors]:
        raise CheckpointError(f"{first.path}: tensor {missing[0]} is missing" + _more(missing))
    tensors = {}
    for name in expected:
        cut = tensor_table.cut_of(name)
        assert cut is not None
        shape = tensor_table.whole_shape(
            name, vocabulary=vocabulary, positions=positions, hidden=hidden, inner=variant.inner
        )
        tensors[name] = StoredTensor(cut, shape, [s.tensors[name] for s in shards if name in s.tensors])
    for shard in shards:
        if missing := [n for n in expected if n not in shard.tensors]:
            raise CheckpointError(f"{shard.path}: tensor {missing[0]} is missing" + _more(missing))
        if unexpected := [n for n in shard.tensors if n not in tensors]:
            differs = f", which differs from {_WORDS}" if unexpected[0] == _HEAD else ""
            raise CheckpointError(f"{shard.path}: unexpected tensor {unexpected[0]!a}" + differs + _more(unexpected))
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
            ref.check()
            if math.prod(ref.shape) > ref.extent:
                raise CheckpointError(f"{shard.path}: {name} repeats its elements, so it is no saved weight")
    notes = sorted({note for shard in shards for note in shard.notes})
    stored = (shard.tensors[name].storage.checksum for shard in shards for name in expected)
    checksums = {(c.path, c.name): c for c in stored if c is not None}
    return Checkpoint(
        folder=folder,
        iteration=layout.iteration,
        degree=degree,
        layers=layers,
        hidden=hidden,
        vocabulary=vocabulary,
        positions=positions,
        dtype=first.tensors[_WORDS].dtype,
        files=[shard.path for shard in shards],
        notes=notes[:_NOTES] + ([f"and {len(notes) - _NOTES} more"] if len(notes) > _NOTES else []),
        tensors=tensors,
        checksums=list(checksums.values()),
        format="Megatron shards" + (", safetensors" if first.path.suffix == ".safetensors" else ""),
        variant=variant,
        pads_vocabulary=padded,
        sources={} if variant == CPM_1 else {"network": CONFIG},
    )


def _variant(config: NetworkConfig, first: Shard) -> NetworkVariant:
    """How the network differs from CPM-1's, by config.json. A head of its own is stored, and config.json says so, too."""
    tied = not (_HEAD in first.tensors and config.content.get("tie_word_embeddings") is False)
    return dataclasses.replace(config.variant(), tied_head=tied)


def _vocabulary(config: NetworkConfig | None, rows: int, degree: int) -> tuple[int, bool]:
    """The size of the vocabulary, and whether the last ranks' rows may be padding, which config.json tells."""
    said = None if config is None else config.content.get("vocab_size")
    if type(said) is int and 0 <= rows * degree - said < degree:
        return said, True
    return rows * degree, False


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
