"""Reads ``torch.save`` files without executing anything in them and without reading the tensors.

The pickle is read by :mod:`cpm_gen.checkpoints.formats.safe_pickle`; what that drops is listed in the file's notes. Tensors are
not read: a :class:`TensorRef` has a tensor's place in the memory-mapped file and returns a view on request.

Both formats are read: zip (torch 1.6 and newer) and the legacy stream.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from cpm_gen.checkpoints.checksums import Checksum
from cpm_gen.checkpoints.formats.foreign_files import recognize
from cpm_gen.checkpoints.formats.known_globals import Array, Dropped
from cpm_gen.checkpoints.formats.mapped_file import MappedFile, Storage, TensorRef
from cpm_gen.checkpoints.formats.pickle_source import PICKLE_BYTES
from cpm_gen.checkpoints.formats.safe_pickle import Unpickler
from cpm_gen.checkpoints.formats.zip_records import ZipRecords
from cpm_gen.config.arguments import one_line
from cpm_gen.errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_PLAIN = (
    *(bool, int, float, complex, str, bytes, bytearray, dict, list, tuple, set, frozenset),
    *(np.ndarray, np.generic, torch.dtype, Tensor),
)


class SavedFile(MappedFile):
    """One file written by ``torch.save``.

    content: the saved object, tensors as TensorRef. notes: names of the globals that were dropped. size: bytes.
    checksums: of the storages that ``content`` uses; none if the file stores none (legacy files have none).
    Raises CheckpointError if the file is not such a file, or is truncated or damaged. Memory and time are linear in the length
    of the pickle inside, see :mod:`cpm_gen.checkpoints.formats.safe_pickle`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.checksums: list[Checksum] = []
        self._notes: dict[str, None] = {}
        try:
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
                what = one_line(error, 160)
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
