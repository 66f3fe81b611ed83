"""Reads ``torch.save`` files without executing anything in them and without reading the tensors.

The pickle is read by :mod:`cpm_gen.checkpoints.formats.safe_pickle`; what that drops is listed in the file's notes. Tensors are
not read: a :class:`TensorRef` has a tensor's place in the memory-mapped file and returns a view on request.

Both formats are read: zip (torch 1.6 and newer) and the legacy stream.
"""

from __future__ import annotations

import math
import mmap
import pickle
import stat
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

from cpm_gen.checkpoints.checksums import Checksum
from cpm_gen.checkpoints.formats.foreign_files import recognize
from cpm_gen.checkpoints.formats.known_globals import Array, Dropped
from cpm_gen.checkpoints.formats.pickle_source import PICKLE_BYTES
from cpm_gen.checkpoints.formats.safe_pickle import Unpickler
from cpm_gen.checkpoints.formats.zip_records import ZipRecords
from cpm_gen.errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_PLAIN = (
    *(bool, int, float, complex, str, bytes, bytearray, dict, list, tuple, set, frozenset),
    *(np.ndarray, np.generic, torch.dtype, Tensor),
)


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


class SavedFile:
    """One file written by ``torch.save``.

    content: the saved object, tensors as TensorRef. notes: names of the globals that were dropped. size: bytes.
    checksums: of the storages that ``content`` uses; none if the file stores none (legacy files have none).
    Raises CheckpointError if the file is not such a file, or is truncated or damaged. Memory and time are linear in the length
    of the pickle inside, see :mod:`cpm_gen.checkpoints.formats.safe_pickle`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checksums: list[Checksum] = []
        self._notes: dict[str, None] = {}
        self._map: mmap.mmap | None = None
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # a FIFO would wait for a writer
                what = "a directory" if stat.S_ISDIR(status.st_mode) else "a device or pipe"
                raise CheckpointError(f"{path}: {what}, not a regular file")
            self.size = status.st_size
            with path.open("rb") as file:
                start = file.read(512)
                file.seek(0)
                if foreign := recognize(start, self.size):
                    raise CheckpointError(f"{path}: {foreign}")
                zipped = start.startswith(b"PK\x03\x04")
                self.content: Any = self._read_zip(file) if zipped else self._read_legacy(file)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from None
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            what = "malformed contents"
            if isinstance(error, (pickle.UnpicklingError, zipfile.BadZipFile)):
                what = " ".join(str(error).split())[:160]
            elif isinstance(error, MemoryError):
                what = "MemoryError: its contents need more memory than there is"
            raise CheckpointError(f"{path}: not a readable checkpoint file, damaged or truncated ({what})") from None

    @property
    def notes(self) -> list[str]:
        """Names of the globals that were dropped, each once, in the order of the file."""
        return list(self._notes)

    def note(self, origin: str) -> None:
        """Record the name of a dropped global, escaped for a terminal."""
        origin = origin[:200] if origin.isprintable() else ascii(origin[:200])
        self._notes[origin] = None

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

    def _unpickle(self, file: IO[bytes], left: int, persistent: Callable[[Any], Storage]) -> Any:
        return Unpickler(file, left, persistent, self._tensor, self.note).load()

    def _tensor(self, storage: Any, dtype: Any, first: int, shape: tuple[int, ...], stride: tuple[int, ...]) -> Any:
        dtype = storage.dtype if dtype is None and isinstance(storage, Storage) else dtype
        if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
            return Dropped()
        return TensorRef(self, storage, dtype, first, shape, stride)

    def _described(self, kind: Any, dtype: Any, key: Any, count: Any) -> tuple[torch.dtype, str, int]:
        """The fields of a storage's description, checked."""
        if kind != "storage" or not isinstance(dtype, torch.dtype):
            origin = dtype.origin if isinstance(dtype, Dropped) else type(dtype).__name__
            raise CheckpointError(f"{self.path}: unknown kind of storage ({origin!a:.100})")
        if type(key) not in (str, int) or type(count) is not int or count < 0:
            raise CheckpointError(f"{self.path}: a damaged description of a storage")
        return dtype, str(key), count

    def _read_zip(self, file: IO[bytes]) -> Any:
        records = ZipRecords(self.path, file, self.size)
        if records.read("byteorder", 16) not in (None, b"little"):
            raise CheckpointError(f"{self.path}: written on a big-endian machine, which is not supported")
        storages: dict[tuple[torch.dtype, str, int], Storage] = {}
        checksums: dict[str, Checksum] = {}

        def persistent(pid: Any) -> Storage:
            kind, dtype, key, _, count = pid
            dtype, key, count = described = self._described(kind, dtype, key, count)
            if described not in storages:
                record = records.find(f"data/{key}")
                if record is None:
                    raise CheckpointError(f"{self.path}: storage {key!a:.40} is missing from the file")
                if record.length < count * dtype.itemsize:
                    raise CheckpointError(f"{self.path}: storage {key!a:.40} is shorter than its tensors")
                checksum = checksums.setdefault(key, record) if records.has_checksums else None
                storages[described] = Storage(dtype, count, record.offset, checksum)
            return storages[described]

        pickled = records.read("data.pkl", PICKLE_BYTES)
        assert pickled is not None
        content = self._unpickle(BytesIO(pickled), len(pickled), persistent)
        self.checksums = list(checksums.values())
        return content

    def _read_legacy(self, file: IO[bytes]) -> Any:
        storages: dict[str, Storage] = {}

        def persistent(pid: Any) -> Storage:
            kind, dtype, key, _, count, view = pid
            dtype, key, count = self._described(kind, dtype, key, count)
            if view is not None:
                raise CheckpointError(f"{self.path}: unknown kind of storage (a view of another)")
            return storages.setdefault(key, Storage(dtype, count))

        def load() -> Any:
            return self._unpickle(file, self.size - file.tell(), persistent)

        magic = load()
        if type(magic) is not int or magic != _LEGACY_MAGIC:
            raise CheckpointError(f"{self.path}: not a file that torch.save wrote")
        load()  # protocol version
        if not load().get("little_endian", True):
            raise CheckpointError(f"{self.path}: written on a big-endian machine, which is not supported")
        content, keys = load(), load()
        for key in keys:
            storage = storages[key if type(key) is str else str(int(key))]
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
    """Whether ``value`` can be saved: not a Dropped, a function or anything else that only this reader knows."""
    if isinstance(value, Array):
        return value.filled
    return value is None or isinstance(value, (*_PLAIN, TensorRef))
