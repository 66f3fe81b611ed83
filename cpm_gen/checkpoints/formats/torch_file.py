"""Reads ``torch.save`` files without executing anything in them and without reading the tensors.

The pickle is read by :mod:`cpm_gen.checkpoints.formats.safe_pickle`; what that drops is listed in the file's notes. Tensors are
not read: a :class:`TensorRef` has a tensor's place in the memory-mapped file and returns a view on request.

Both formats are read: zip (torch 1.6 and newer) and the legacy stream.
"""

from __future__ import annotations

import math
import mmap
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from cpm_gen.checkpoints.formats.safe_pickle import Array, Dropped, Unpickler
from cpm_gen.errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_PLAIN = (
    *(bool, int, float, complex, str, bytes, bytearray, dict, list, tuple, set, frozenset),
    *(np.ndarray, np.generic, torch.dtype, Tensor),
)


@dataclass
class Storage:
    """A range of bytes in the file. ``offset`` is set once it is known; -1 before."""

    dtype: torch.dtype
    count: int  # elements
    offset: int = -1

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.count * self.dtype.itemsize


@dataclass(eq=False)
class TensorRef:
    """A tensor in a file: its storage, offset, shape and stride."""

    file: SavedFile = field(repr=False)
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

    def view(self) -> Tensor:
        """The tensor over the mapped file; reading it reads the disk. Raises CheckpointError if it is outside the file."""
        numbers = (*self.shape, *self.stride, self.first)
        sound = all(isinstance(n, int) and 0 <= n < 2**63 for n in numbers) and len(self.shape) == len(self.stride)
        available = self.storage.nbytes // self.dtype.itemsize
        if not sound or self.first + self.extent > available or math.prod(self.shape) >= 2**63:
            raise CheckpointError(f"{self.file.path}: a tensor of shape {self.shape} does not fit its storage")
        if self.extent == 0:
            return torch.empty(0, dtype=self.dtype).as_strided(self.shape, self.stride)
        begin = self.storage.offset + self.first * self.dtype.itemsize
        if self.storage.offset < 0 or begin + self.extent * self.dtype.itemsize > self.file.size:
            raise CheckpointError(f"{self.file.path}: the file ends before its tensors do; it is truncated")
        flat = torch.frombuffer(self.file.map(), dtype=self.dtype, count=self.extent, offset=begin)
        return flat.as_strided(self.shape, self.stride)

    def release(self) -> None:
        """Release the pages that reading the view loaded. The view stays valid; reading it loads them again."""
        begin = self.storage.offset + self.first * self.dtype.itemsize
        self.file.release(begin, self.extent * self.dtype.itemsize)


class SavedFile:
    """One file written by ``torch.save``.

    content: the saved object, tensors as TensorRef. notes: names of the globals that were dropped. Raises CheckpointError if the
    file is not such a file, or is truncated or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: list[str] = []
        self._map: mmap.mmap | None = None
        try:
            self.size = path.stat().st_size
            with path.open("rb") as file:
                start = file.read(4)
                file.seek(0)
                self.content: Any = self._read_zip(file) if start == b"PK\x03\x04" else self._read_legacy(file)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from None
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            what = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise CheckpointError(f"{path}: not a readable checkpoint file, damaged or truncated ({what})") from None

    def note(self, origin: str) -> None:
        """Record the name of a dropped global, escaped for a terminal."""
        origin = origin[:200] if origin.isprintable() else ascii(origin[:200])
        if origin not in self.notes:
            self.notes.append(origin)

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

    def _unpickle(self, file: IO[bytes], persistent: Callable[[Any], Storage]) -> Any:
        return Unpickler(file, persistent, self._tensor, self.note).load()

    def _tensor(self, storage: Any, dtype: Any, first: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Any:
        dtype = storage.dtype if dtype is None and isinstance(storage, Storage) else dtype
        if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
            return Dropped()
        return TensorRef(self, storage, dtype, first, shape, stride)

    def _read_zip(self, file: IO[bytes]) -> Any:
        with zipfile.ZipFile(file) as archive:
            records = {info.filename: info for info in archive.infolist()}
            pickles = [name for name in records if name.endswith("/data.pkl") or name == "data.pkl"]
            if len(pickles) != 1:
                raise CheckpointError(f"{self.path}: a zip file, but not one that torch.save wrote (no data.pkl)")
            root = pickles[0].removesuffix("data.pkl")
            order = records.get(root + "byteorder")
            if order is not None and archive.read(order) != b"little":
                raise CheckpointError(f"{self.path}: written on a big-endian machine, which is not supported")

            def locate(dtype: torch.dtype, key: str, count: int) -> Storage:
                info = records.get(f"{root}data/{key}")
                if info is None:
                    raise CheckpointError(f"{self.path}: storage {key!a:.40} is missing from the file")
                if info.compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(
                        f"{self.path}: the file was re-packed with compression; unpack it and save it again"
                    )
                file.seek(info.header_offset)
                header = file.read(30)
                names, extra = struct.unpack("<HH", header[26:30])
                if info.file_size < count * dtype.itemsize:
                    raise CheckpointError(f"{self.path}: storage {key!a:.40} is shorter than its tensors")
                return Storage(dtype, count, info.header_offset + 30 + names + extra)

            def persistent(pid: Any) -> Storage:
                kind, dtype, key, _, count = pid
                if kind != "storage" or not isinstance(dtype, torch.dtype):
                    raise CheckpointError(
                        f"{self.path}: unknown kind of storage ({getattr(dtype, 'origin', kind)!a:.100})"
                    )
                return locate(dtype, str(key), int(count))

            return self._unpickle(BytesIO(archive.read(pickles[0])), persistent)

    def _read_legacy(self, file: IO[bytes]) -> Any:
        storages: dict[str, Storage] = {}

        def persistent(pid: Any) -> Storage:
            kind, dtype, key, _, count, view = pid
            if kind != "storage" or not isinstance(dtype, torch.dtype) or view is not None:
                raise CheckpointError(f"{self.path}: unknown kind of storage ({getattr(dtype, 'origin', kind)!a:.100})")
            return storages.setdefault(str(key), Storage(dtype, int(count)))

        def load() -> Any:
            return self._unpickle(file, persistent)

        if load() != _LEGACY_MAGIC:
            raise CheckpointError(f"{self.path}: not a file that torch.save wrote")
        load()  # protocol version
        if not load().get("little_endian", True):
            raise CheckpointError(f"{self.path}: written on a big-endian machine, which is not supported")
        content, keys = load(), load()
        for key in keys:
            storage = storages[str(key)]
            count = struct.unpack("<q", file.read(8))[0]
            # torch 2 and newer count bytes for untyped storages, whose elements are one byte
            if count != storage.count:
                raise CheckpointError(
                    f"{self.path}: storage {key!a:.40} has {count} elements, its tensors need {storage.count}"
                )
            storage.offset = file.tell()
            if storage.offset + storage.nbytes > self.size:
                raise CheckpointError(f"{self.path}: the file ends before its tensors do; it is truncated")
            file.seek(storage.nbytes, 1)
        return content


def is_plain(value: Any) -> bool:
    """Whether ``value`` may be saved again: not a Dropped, a class or another type of this reader."""
    if isinstance(value, Array):
        return value.filled
    return value is None or isinstance(value, (*_PLAIN, TensorRef))
