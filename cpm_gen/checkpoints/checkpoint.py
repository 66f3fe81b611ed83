"""An opened checkpoint, whatever its format: sizes, tensors, and the slice of each tensor that a rank holds.

A format (:mod:`cpm_gen.checkpoints.formats`) finds the files, reads their headers and returns a :class:`Checkpoint` of
:class:`StoredTensor` objects. Nothing is read from a tensor until a slice is copied: peak host memory of loading is the rank's
slice plus the pages of one tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.checksums import Checksum
from cpm_gen.checkpoints.tensor_table import Cut
from cpm_gen.config.model_sizes import CPM_1, ModelSize, NetworkVariant
from cpm_gen.errors import CheckpointError


class FileTensor(Protocol):
    """A tensor in a file, read on demand. A format whose files hold another layout converts it in :meth:`view`."""

    @property
    def path(self) -> Path:
        """The file, for error messages."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in the file: float32, float16 or bfloat16."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that :meth:`view` returns: that of :data:`cpm_gen.checkpoints.tensor_table.TABLE`, cut for one saved rank."""

    def view(self) -> Tensor:
        """The values, if possible without a copy. Raises CheckpointError if the file does not hold them."""

    def release(self) -> None:
        """Release the memory pages that reading the view loaded. The view stays valid."""


@dataclass(frozen=True)
class SlicePart:
    """A contiguous part of a rank's slice of a tensor, and where it is stored.

    stored: the tensor in a file that holds it. dim: dimension along which the slice is assembled; None: the part is the whole
    slice and all of ``stored``. stored_start, slice_start, length: offsets along ``dim`` in the file's tensor and in the
    slice, and the number of rows or columns.
    """

    stored: FileTensor
    dim: int | None = None
    stored_start: int = 0
    slice_start: int = 0
    length: int = 0

    def view(self) -> Tensor:
        """The part, as a view of the stored tensor."""
        view = self.stored.view()
        return view if self.dim is None else view.narrow(self.dim, self.stored_start, self.length)

    def within(self, whole_slice: Tensor) -> Tensor:
        """The region of a rank's slice that the part fills, as a view."""
        return whole_slice if self.dim is None else whole_slice.narrow(self.dim, self.slice_start, self.length)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of the network as a checkpoint stores it.

    cut: how it is cut over ranks. shape: of the whole tensor. shards: the part of each rank that the checkpoint was saved
    for, in rank order; one element if the checkpoint stores whole tensors.
    """

    cut: Cut
    shape: tuple[int, ...]
    shards: Sequence[FileTensor]

    @property
    def dtype(self) -> torch.dtype:
        """The stored dtype, the same in all shards."""
        return self.shards[0].dtype

    def slice_parts(self, rank: int, degree: int) -> Iterator[SlicePart]:
        """The parts that make up the slice of ``rank`` of ``degree``."""
        saved = len(self.shards)
        if self.cut.dim is None:
            yield SlicePart(self.shards[rank * saved // degree])
            return
        for p in tensor_table.pieces(self.cut, self.shape[self.cut.dim], saved, degree, rank):
            yield SlicePart(self.shards[p.source], self.cut.dim, p.source_start, p.target_start, p.length)


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint. Sizes come from the tensors; heads do not (see :mod:`cpm_gen.checkpoints.attention_heads`).

    folder: the folder that a person names, for messages and companion files. iteration: name of the saved state. degree: number
    of ranks that it was saved for. dtype: of the word embedding. files: those that hold the weights. notes: names of objects
    in the files that were not loaded. tensors: by the names of :func:`cpm_gen.checkpoints.tensor_table.names`, and the output head's
    if it is not tied. checksums: of the bytes that the tensors lie in; empty if the files store none.

    format: its name for a person. variant: how the network differs from CPM-1's. heads: as the files say; None if they do not.
    pads_vocabulary: whether a degree need not divide the vocabulary; the slices of the last ranks then end with zero rows, which
    are no tokens. sources: where the value of a size or of a field of the variant was found, for a person.
    """

    folder: Path
    iteration: str
    degree: int
    layers: int
    hidden: int
    vocabulary: int
    positions: int
    dtype: torch.dtype
    files: Sequence[Path]
    notes: list[str]
    tensors: Mapping[str, StoredTensor]
    checksums: Sequence[Checksum] = ()
    format: str = "Megatron shards"
    variant: NetworkVariant = CPM_1
    heads: int | None = None
    pads_vocabulary: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_onnx(self) -> bool:
        """Whether it is an ONNX file, which is run as it is: none of its tensors is known, nor how its network differs from CPM-1's."""
        return not self.tensors

    def size(self, heads: int) -> ModelSize:
        """The network's sizes with the number of heads filled in."""
        return ModelSize(self.layers, self.hidden, heads, self.vocabulary, self.positions)

    def possible_degrees(self, heads: int | None) -> list[int]:
        """Numbers of ranks at which the network can be cut; without ``heads``, what the matrices alone allow."""
        return tensor_table.possible_degrees(**self._divided(), heads=heads)

    def check_degree(self, degree: int, heads: int | None) -> None:
        """Raise CheckpointError, with the possible numbers of ranks, if the network cannot be cut for ``degree``."""
        tensor_table.check_degree(degree, **self._divided(), heads=heads, where=str(self.folder))

    def _divided(self) -> dict[str, Any]:
        """The sizes that a degree must divide."""
        vocabulary = None if self.pads_vocabulary else self.vocabulary
        return {"vocabulary": vocabulary, "hidden": self.hidden, "inner": self.variant.inner}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a whole tensor."""
        return self.tensors[name].shape

    def slice_shape(self, name: str, degree: int) -> tuple[int, ...]:
        """Shape of the slice of a tensor that each rank of ``degree`` holds."""
        tensor = self.tensors[name]
        return tensor_table.rank_shape(tensor.cut, tensor.shape, degree)

    def slice_parts(self, name: str, rank: int, degree: int) -> Iterator[SlicePart]:
        """The stored parts that make up what ``rank`` of ``degree`` holds of a tensor."""
        return self.tensors[name].slice_parts(rank, degree)

    def copy_slice(self, name: str, rank: int, degree: int, out: Tensor) -> None:
        """Fill ``out`` with what ``rank`` of ``degree`` holds of a tensor, converted to the dtype and device of ``out``.

        Rows that pad a vocabulary become zeros.
        """
        filled = 0
        for part in self.slice_parts(name, rank, degree):
            within = part.within(out)
            within.copy_(part.view())
            part.stored.release()
            filled += within.numel()
        if filled < out.numel():
            dim = self.tensors[name].cut.dim
            assert dim is not None
            held = filled * out.shape[dim] // out.numel()
            out.narrow(dim, held, out.shape[dim] - held).zero_()


def verify_replicas(checkpoint: Checkpoint) -> None:
    """Check that tensors which every rank holds whole are equal, bit for bit, in all shards; raises CheckpointError."""
    for name, tensor in checkpoint.tensors.items():
        if tensor.cut.dim is not None:
            continue
        first = tensor.shards[0]
        reference = bits(first.view())
        for shard in tensor.shards[1:]:
            if shard.dtype != first.dtype or not torch.equal(bits(shard.view()), reference):
                raise CheckpointError(
                    f"{shard.path}: {name} differs from {first.path.name}'s, but every rank must hold the same"
                )
            shard.release()
        first.release()


def bits(x: Tensor) -> Tensor:
    """``x`` as integers of the same width, for comparisons in which NaN equals itself."""
    return x.contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()])
