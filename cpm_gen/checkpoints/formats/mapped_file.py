"""A file of weights, mapped into memory, and the tensors in it, whatever the format that says where they lie."""

from __future__ import annotations

import math
import mmap
import stat
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cpm_gen.checkpoints.checkpoint import bits
from cpm_gen.checkpoints.checksums import Checksum
from cpm_gen.errors import CheckpointError

_COMPARED = 1 << 20  # elements that are compared at a time


@dataclass(eq=False, slots=True)
class Storage:
    """A range of bytes in the file. ``offset`` is set once it is known; -1 before."""

    dtype: torch.dtype
    count: int  # elements
    offset: int = -1
    checksum: Checksum | None = None

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.count * self.dtype.itemsize


class MappedFile:
    """A regular file. path, size: its place and its length in bytes.

    Raises CheckpointError if it cannot be read or is not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: mmap.mmap | None = None
        try:
            status = path.stat()
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from None
        if not stat.S_ISREG(status.st_mode):  # a FIFO would wait for a writer
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
            raise CheckpointError(f"{path}: {what}, not a regular file")
        self.size = status.st_size

    def map(self) -> mmap.mmap:
        """The whole file, mapped copy-on-write: writing to a view does not change it."""
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._map

    def release(self, begin: int, length: int) -> None:
        """Tell the system that these bytes of the map need not stay in memory."""
        if self._map is None or length <= 0 or not hasattr(self._map, "madvise"):
            return
        page = mmap.PAGESIZE
        begin, end = begin // page * page, min(-(-(begin + length) // page) * page, self.size)
        self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)


@dataclass(eq=False)
class TensorRef:
    """A tensor in a file: its storage, offset, shape and stride."""

    file: MappedFile = field(repr=False)
    storage: Storage
    dtype: torch.dtype
    first: int  # element
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def path(self) -> Path:
        """The file that holds it."""
        return self.file.path

    @property
    def extent(self) -> int:
        """Number of elements of the storage that the layout spans, counted from ``first``."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))

    def check(self) -> None:
        """Raise CheckpointError if the layout does not fit the storage, or the storage lies outside the file."""
        numbers = (*self.shape, *self.stride, self.first)
        sound = all(type(n) is int and 0 <= n < 2**63 for n in numbers) and len(self.shape) == len(self.stride)
        available = self.storage.nbytes // self.dtype.itemsize
        if not sound or self.first + self.extent > available or math.prod(self.shape) >= 2**63:
            raise CheckpointError(f"{self.file.path}: a tensor of shape {self.shape} does not fit its storage")
        begin = self.storage.offset + self.first * self.dtype.itemsize
        if self.extent and (self.storage.offset < 0 or begin + self.extent * self.dtype.itemsize > self.file.size):
            raise CheckpointError(f"{self.file.path}: the file ends before its tensors do; it is truncated")

    def view(self) -> Tensor:
        """The tensor over the mapped file; reading it reads the disk. Raises CheckpointError if it is outside the file."""
        self.check()
        if self.extent == 0:
            return torch.empty(0, dtype=self.dtype).as_strided(self.shape, self.stride)
        begin = self.storage.offset + self.first * self.dtype.itemsize
        flat = torch.frombuffer(self.file.map(), dtype=self.dtype, count=self.extent, offset=begin)
        return flat.as_strided(self.shape, self.stride)

    def release(self) -> None:
        """Release the pages that reading the view loaded. The view stays valid; reading it loads them again."""
        begin = self.storage.offset + self.first * self.dtype.itemsize
        self.file.release(begin, self.extent * self.dtype.itemsize)


def same_bits(a: TensorRef, b: TensorRef) -> bool:
    """Whether two tensors hold the same bits; read a few megabytes at a time, or not at all if they share their storage."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    if a.file is b.file and (a.storage.offset, a.first, a.stride) == (b.storage.offset, b.first, b.stride):
        return True
    if not a.shape:
        return torch.equal(bits(a.view()), bits(b.view()))
    rows = max(1, _COMPARED * a.shape[0] // max(1, math.prod(a.shape)))
    first, second = a.view(), b.view()
    for at in range(0, a.shape[0], rows):
        same = torch.equal(bits(first[at : at + rows]), bits(second[at : at + rows]))
        a.release()
        b.release()
        if not same:
            return False
    return True
