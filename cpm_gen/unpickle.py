"""Reads ``torch.save`` files without running anything in them, and without reading the tensors.

A ``.pt`` file is a pickle, and a pickle is a program. This reader lets a pickle build plain containers, numbers, strings, numpy
arrays and :class:`TensorRef` objects, by a fixed table that no file can extend; nothing is imported by a name from the file.
Any other global becomes an inert :class:`Dropped` value and is listed in the reader's notes. A tensor stays where it is: a
TensorRef knows its place in the memory-mapped file and gives a view when asked.

Both formats are read: zip (torch 1.6 and newer) and the legacy stream.
"""

from __future__ import annotations

import collections
import math
import mmap
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cpm_gen.errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

_STORAGE_DTYPES: dict[str, torch.dtype] = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
}


_PLAIN = (
    *(bool, int, float, complex, str, bytes, bytearray, dict, list, tuple, set, frozenset),
    *(np.ndarray, np.generic, torch.dtype, Tensor),
)
_NESTING, _SIZE = 64, 10_000_000  # of containers in a file; no checkpoint comes near


@dataclass
class Storage:
    """A run of bytes in the file. ``offset`` is filled in once it is known where the run begins."""

    dtype: torch.dtype
    count: int  # elements
    offset: int = -1

    @property
    def nbytes(self) -> int:
        """Bytes that the run takes."""
        return self.count * self.dtype.itemsize


@dataclass(eq=False)
class TensorRef:
    """A tensor in a file: where it lies and how it is laid out."""

    file: SavedFile = field(repr=False)
    storage: Storage
    dtype: torch.dtype
    first: int  # element
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def extent(self) -> int:
        """Elements of the storage that the layout reaches, counted from ``first``."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True))

    def view(self) -> Tensor:
        """The tensor over the mapped file; reading it reads the disk. Raises CheckpointError if it lies outside the file."""
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
        """Give the pages back that :meth:`view` read into memory; the view stays valid and would read them again."""
        begin = self.storage.offset + self.first * self.dtype.itemsize
        self.file.release(begin, self.extent * self.dtype.itemsize)


class Dropped:
    """Stands where an object stood that is not on the list. Takes whatever the pickle does to it and does nothing."""

    origin = ""

    def __new__(cls, *_: Any, **__: Any) -> Dropped:
        """Accept any arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Dropped:
        """Calling a dropped object drops the result."""
        return self

    def append(self, _: Any) -> None:
        """Ignore."""

    def extend(self, _: Any) -> None:
        """Ignore."""

    def add(self, _: Any) -> None:
        """Ignore."""


class SavedFile:
    """One file written by ``torch.save``.

    content: the object that was saved, tensors as TensorRef.
    notes: names of the globals that were dropped.
    Raises CheckpointError where the file is not such a file, is cut short or damaged.
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
            _measure(self.content, {})
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror or error}") from None
        except CheckpointError:
            raise
        except Exception as error:  # a damaged pickle can raise anything
            what = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise CheckpointError(f"{path}: not a readable checkpoint file, damaged or truncated ({what})") from None

    def note(self, origin: str) -> None:
        """Remember the name of something dropped, fit for a terminal."""
        origin = origin[:200] if origin.isprintable() else ascii(origin[:200])
        if origin not in self.notes:
            self.notes.append(origin)

    def map(self) -> mmap.mmap:
        """The whole file, mapped copy-on-write: a view can never change it."""
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._map

    def release(self, begin: int, length: int) -> None:
        """Tell the system that these bytes of the map are not needed in memory for now."""
        if self._map is None or length <= 0 or not hasattr(self._map, "madvise"):
            return
        page = mmap.PAGESIZE
        begin, end = begin // page * page, min(-(-(begin + length) // page) * page, self.size)
        self._map.madvise(mmap.MADV_DONTNEED, begin, end - begin)

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
                        f"{self.path}: the file was re-packed with compression; unpack and save it anew"
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

            return _Unpickler(BytesIO(archive.read(pickles[0])), self, persistent).load()

    def _read_legacy(self, file: IO[bytes]) -> Any:
        storages: dict[str, Storage] = {}

        def persistent(pid: Any) -> Storage:
            kind, dtype, key, _, count, view = pid
            if kind != "storage" or not isinstance(dtype, torch.dtype) or view is not None:
                raise CheckpointError(f"{self.path}: unknown kind of storage ({getattr(dtype, 'origin', kind)!a:.100})")
            return storages.setdefault(str(key), Storage(dtype, int(count)))

        def load() -> Any:
            return _Unpickler(file, self, persistent).load()

        if load() != _LEGACY_MAGIC:
            raise CheckpointError(f"{self.path}: not a file that torch.save wrote")
        load()  # protocol version
        if not load().get("little_endian", True):
            raise CheckpointError(f"{self.path}: written on a big-endian machine, which is not supported")
        content, keys = load(), load()
        for key in keys:
            storage = storages[str(key)]
            count = struct.unpack("<q", file.read(8))[0]
            # since torch 2.x the number is of bytes for untyped storages; theirs have one byte an element
            if count != storage.count:
                raise CheckpointError(
                    f"{self.path}: storage {key!a:.40} has {count} elements, its tensors need {storage.count}"
                )
            storage.offset = file.tell()
            if storage.offset + storage.nbytes > self.size:
                raise CheckpointError(f"{self.path}: the file ends before its tensors do; it is truncated")
            file.seek(storage.nbytes, 1)
        return content


class _Unpickler(pickle._Unpickler):
    """A pickle machine whose globals are a fixed table, and which gives state only to what was made to take it.

    Python's own and not C's: that one takes as much memory as a damaged number asks for.
    """

    stack: list[Any]
    append: Callable[[Any], None]

    def __init__(self, file: IO[bytes], saved: SavedFile, persistent: Callable[[Any], Storage]) -> None:
        super().__init__(file, encoding="latin1")
        self._saved = saved
        self._persistent = persistent
        self._table = _globals(saved)

    def persistent_load(self, pid: Any) -> Storage:
        return self._persistent(pid)

    def find_class(self, module: str, name: str) -> Any:
        known = self._table.get((module, name))
        if known is not None:
            return known
        if module in ("torch", "torch.storage") and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        return self._drop(f"{module}.{name}")

    def get_extension(self, code: int) -> None:
        """A number that stands for a global registered in this process: not looked up."""
        self.append(self._drop(f"copyreg extension {code}"))

    def _drop(self, origin: str) -> type[Dropped]:
        self._saved.note(origin)
        return type("Dropped", (Dropped,), {"origin": origin})

    def load_build(self) -> None:
        """Functions, classes, dictionaries and TensorRefs keep what they are; a state given to them is ignored."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], (_Array, _NumberType)):
            self.stack[-1].set_state(state)

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def _globals(saved: SavedFile) -> Mapping[tuple[str, str], Any]:
    """The globals that a checkpoint may name. Made anew for each file: no file can alter what the next one sees."""

    def tensor(storage: Any, first: int, shape: Any, stride: Any, *_: Any) -> Any:
        if not isinstance(storage, Storage):
            return Dropped()
        return TensorRef(saved, storage, storage.dtype, int(first), tuple(shape), tuple(stride))

    def tensor_v3(storage: Any, first: int, shape: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Any:
        if not isinstance(storage, Storage) or not isinstance(dtype, torch.dtype):
            return Dropped()
        return TensorRef(saved, storage, dtype, int(first), tuple(shape), tuple(stride))

    def parameter(data: Any, *_: Any) -> Any:
        return data

    def latin1(text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise CheckpointError(f"{saved.path}: bytes in an unexpected encoding {encoding!r}")
        return text.encode("latin1")

    def scalar(kind: Any, data: Any = b"") -> Any:
        dtype = kind.dtype if isinstance(kind, _NumberType) else None
        if dtype is None or not isinstance(data, bytes) or len(data) != dtype.itemsize:
            return Dropped()
        return np.frombuffer(data, dtype)[0]

    def number_type(code: Any, *_: Any) -> _NumberType:
        kind = _NumberType(code)
        if kind.dtype is None:
            saved.note(f"numpy.dtype {code}")
        return kind

    array = type("Dropped", (Dropped,), {"origin": "numpy.ndarray"})  # names the type; calling it makes no array

    table: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_tensor_v3"): tensor_v3,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): parameter,
        ("torch", "Size"): tuple,
        ("_codecs", "encode"): latin1,
    }
    for module in ("builtins", "__builtin__"):
        table |= {(module, t.__name__): t for t in (set, frozenset, complex)}
        table[module, "bytes"] = lambda: b""  # how protocol 2 writes none; others go through _codecs
    for dtype in {*_STORAGE_DTYPES.values()}:
        table["torch", str(dtype).removeprefix("torch.")] = dtype
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[module, "_reconstruct"] = lambda kind, *_: _Array() if kind is array else Dropped()
        table[module, "scalar"] = scalar
    table["numpy", "ndarray"] = array
    table["numpy", "dtype"] = number_type
    return table


class _NumberType:
    """numpy's dtype of plain numbers, by its code and byte order.

    ``dtype`` is None for all others: an array of objects would be a pickle inside the pickle. numpy's own class is not used: a
    pickle can give it flags and fields that numpy trusts.
    """

    def __init__(self, code: Any) -> None:
        dtype = np.dtype(code) if isinstance(code, str) and len(code) <= 8 else None
        self.dtype = dtype if dtype is not None and dtype.kind in "biufc" and dtype.names is None else None

    def set_state(self, state: Any) -> None:
        if self.dtype is not None and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray[Any, Any]):
    """An empty array that accepts only the state of an array of numbers; given any other, it is as good as dropped."""

    filled = False

    def __new__(cls) -> _Array:
        return np.ndarray.__new__(cls, (0,), dtype=np.uint8)

    def set_state(self, state: Any) -> None:
        version, shape, kind, fortran, data = state
        dtype = kind.dtype if isinstance(kind, _NumberType) else None
        if dtype is None:
            return
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            raise pickle.UnpicklingError("an array whose bytes do not fit its shape")
        super().__setstate__((version, shape, dtype, fortran, data))
        self.filled = True


def is_plain(value: Any) -> bool:
    """Whether ``value`` may be saved anew: not a Dropped, a class or anything else that only this reader knows."""
    if isinstance(value, _Array):
        return value.filled
    return value is None or isinstance(value, (*_PLAIN, TensorRef))


def _measure(value: Any, seen: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(nesting, size) of containers, shared ones counted where they stand. Raises UnpicklingError where one holds itself."""
    if not isinstance(value, (dict, list, tuple, set, frozenset)):
        return 0, 1
    if id(value) not in seen:
        seen[id(value)] = (_NESTING, 0)  # stands while its contents are measured
        within = [_measure(v, seen) for v in ((*value.keys(), *value.values()) if isinstance(value, dict) else value)]
        seen[id(value)] = (1 + max((n for n, _ in within), default=0), 1 + sum(n for _, n in within))
    nesting, size = seen[id(value)]
    if nesting >= _NESTING or size > _SIZE:
        raise pickle.UnpicklingError("containers nested too deep, or holding themselves")
    return nesting, size
