"""Checkpoints of CPM-1: finding, verifying, loading a rank's slices at any degree, saving.

Layout: ``DIR/latest_checkpointed_iteration.txt`` names an iteration (or ``release``); the shards are
``DIR/<iteration>/mp_rank_XX_model_states.pt``. Opening reads no tensor; :func:`load_into` copies this rank's slices, one tensor at a
time, from the mapped shards that hold them: peak host memory is the rank's slice plus the pages of one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.formats.torch_file import TensorRef
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.errors import CheckpointError


@dataclass
class Shard:
    """One rank's file. ``tensors`` are the network's, by their names in :data:`cpm_gen.checkpoints.tensor_table.TABLE`."""

    path: Path
    content: dict[str, Any]
    tensors: dict[str, TensorRef]
    notes: list[str]


@dataclass
class Checkpoint:
    """An opened, verified checkpoint. Sizes come from the tensors; heads cannot (see :mod:`cpm_gen.checkpoints.attention_heads`)."""

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
        return tensor_table.whole_shape(name, vocabulary=self.vocabulary, positions=self.positions, hidden=self.hidden)

    def sources(self, name: str, rank: int, degree: int) -> Iterator[tuple[TensorRef, int | None, int, int, int]]:
        """What ``rank`` of ``degree`` copies for tensor ``name``: (reference, dim, from, to, length); dim None: all of it."""
        cut = tensor_table.cut_of(name)
        assert cut is not None
        if cut.dim is None:
            yield self.shards[rank * self.degree // degree].tensors[name], None, 0, 0, 0
            return
        for p in tensor_table.pieces(cut, self.shape(name)[cut.dim], self.degree, degree, rank):
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
        cut = tensor_table.cut_of(name)
        assert cut is not None
        return tensor_table.rank_shape(cut, self.shape(name), degree)


def verify_replicas(checkpoint: Checkpoint) -> None:
    """Check that tensors which every rank holds are the same, bit for bit, in all shards; raises CheckpointError."""
    for name in tensor_table.names(checkpoint.layers):
        cut = tensor_table.cut_of(name)
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
