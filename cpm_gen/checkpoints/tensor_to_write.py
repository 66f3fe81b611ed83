"""A tensor of a file that is being written: its place in the file is known before its values are read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.errors import CheckpointError


@dataclass(frozen=True)
class TensorToWrite:
    """name, shape, dtype: in the file. read: returns the values, of that shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def content(self) -> bytes | memoryview:
        """The values as the bytes of a file."""
        values = self.read()
        assert tuple(values.shape) == self.shape and values.dtype == self.dtype
        return values.contiguous().view(torch.uint8).numpy().data


def read_slice(
    checkpoint: Checkpoint, name: str, rank: int, degree: int, dtype: torch.dtype, *, transposed: bool = False
) -> Tensor:
    """What a rank holds of a tensor, in ``dtype``; raises CheckpointError for numbers that it does not have.

    transposed: of a matrix, return ``[columns, rows]``. The result is contiguous either way.
    """
    shape = checkpoint.slice_shape(name, degree)
    values = torch.empty(shape[::-1] if transposed else shape, dtype=dtype)
    checkpoint.copy_slice(name, rank, degree, values.T if transposed else values)
    if dtype == torch.float16 != checkpoint.tensors[name].dtype and values.isinf().any():
        raise CheckpointError(
            f"{checkpoint.folder}: {name} holds numbers beyond float16's range; take bfloat16 or float32"
        )
    return values
