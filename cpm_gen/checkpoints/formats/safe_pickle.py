"""A pickle reader that executes nothing: its globals are a fixed table, every other global becomes an inert :class:`Dropped`.

A pickle is a program. This reader lets it build plain containers, numbers, strings and numpy arrays of numbers, and passes tensors
to the caller's function. It never imports a name from the file.
"""

from __future__ import annotations

import collections
import math
import pickle
from collections.abc import Callable, Mapping
from typing import IO, Any, ClassVar

import numpy as np
import torch

# (storage, dtype or None for the storage's own, first element, shape, stride) -> tensor
MakeTensor = Callable[[Any, Any, int, tuple[int, ...], tuple[int, ...]], Any]

STORAGE_DTYPES: dict[str, torch.dtype] = {
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

_NESTING, _SIZE = 64, 10_000_000  # limits on containers in a file, far above those of checkpoints


class Dropped:
    """Replaces an object whose type is not in the table. Accepts every operation of the pickle and does nothing."""

    origin = ""

    def __new__(cls, *_: Any, **__: Any) -> Dropped:
        """Accept any arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> Dropped:
        """The result is dropped, too."""
        return self

    def append(self, _: Any) -> None:
        """Ignore."""

    def extend(self, _: Any) -> None:
        """Ignore."""

    def add(self, _: Any) -> None:
        """Ignore."""


class Unpickler(pickle._Unpickler):
    """An unpickler with a fixed table of globals, which sets state only on this module's own types.

    Based on Python's implementation: the one in C allocates as much memory as a damaged length asks for.
    """

    stack: list[Any]
    append: Callable[[Any], None]

    def __init__(
        self, file: IO[bytes], persistent: Callable[[Any], Any], tensor: MakeTensor, note: Callable[[str], None]
    ) -> None:
        """``persistent`` turns a storage's description into a storage, ``tensor`` makes a tensor over it.

        note: called with the name of every global that is dropped.
        """
        super().__init__(file, encoding="latin1")
        self._persistent = persistent
        self._note = note
        self._table = _globals(tensor, note)

    def load(self) -> Any:
        """The object; raises UnpicklingError or another exception if the pickle is damaged or contains itself."""
        content = super().load()
        _measure(content, {})
        return content

    def persistent_load(self, pid: Any) -> Any:
        return self._persistent(pid)

    def find_class(self, module: str, name: str) -> Any:
        known = self._table.get((module, name))
        if known is not None:
            return known
        if module in ("torch", "torch.storage") and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        return self._drop(f"{module}.{name}")

    def get_extension(self, code: int) -> None:
        """An extension code stands for a global that this process registered: it is dropped, not looked up."""
        self.append(self._drop(f"copyreg extension {code}"))

    def _drop(self, origin: str) -> type[Dropped]:
        self._note(origin)
        return type("Dropped", (Dropped,), {"origin": origin})

    def load_build(self) -> None:
        """Set a state on arrays and number types; ignore it for functions, classes, dictionaries and TensorRefs."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], (Array, NumberType)):
            self.stack[-1].set_state(state)

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def _globals(make: MakeTensor, note: Callable[[str], None]) -> Mapping[tuple[str, str], Any]:
    """The globals that a checkpoint may name. A new table for each file: a file cannot change what the next one gets."""

    def tensor(storage: Any, first: int, shape: Any, stride: Any, *_: Any) -> Any:
        return make(storage, None, int(first), tuple(shape), tuple(stride))

    def tensor_v3(storage: Any, first: int, shape: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Any:
        return make(storage, dtype, int(first), tuple(shape), tuple(stride))

    def parameter(data: Any, *_: Any) -> Any:
        return data

    def latin1(text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError("bytes in an unexpected encoding")
        return text.encode("latin1")

    def scalar(kind: Any, data: Any = b"") -> Any:
        dtype = kind.dtype if isinstance(kind, NumberType) else None
        if dtype is None or not isinstance(data, bytes) or len(data) != dtype.itemsize:
            return Dropped()
        return np.frombuffer(data, dtype)[0]

    def number_type(code: Any, *_: Any) -> NumberType:
        kind = NumberType(code)
        if kind.dtype is None:
            note(f"numpy.dtype {code}")
        return kind

    array = type("Dropped", (Dropped,), {"origin": "numpy.ndarray"})  # names the type; a call returns a Dropped

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
        table[module, "bytes"] = lambda: b""  # protocol 2 writes empty bytes so; others use _codecs
    for dtype in {*STORAGE_DTYPES.values()}:
        table["torch", str(dtype).removeprefix("torch.")] = dtype
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[module, "_reconstruct"] = lambda kind, *_: Array() if kind is array else Dropped()
        table[module, "scalar"] = scalar
    table["numpy", "ndarray"] = array
    table["numpy", "dtype"] = number_type
    return table


class NumberType:
    """A numpy dtype of plain numbers, by its code and byte order; ``dtype`` is None for all others.

    An array of objects would be a pickle inside the pickle. numpy's own class is not used, because a pickle can set flags and
    fields on it that numpy trusts.
    """

    def __init__(self, code: Any) -> None:
        dtype = np.dtype(code) if isinstance(code, str) and len(code) <= 8 else None
        self.dtype = dtype if dtype is not None and dtype.kind in "biufc" and dtype.names is None else None

    def set_state(self, state: Any) -> None:
        if self.dtype is not None and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Array(np.ndarray[Any, Any]):
    """An empty array that accepts only the state of an array of numbers; with any other state it counts as dropped."""

    filled = False

    def __new__(cls) -> Array:
        return np.ndarray.__new__(cls, (0,), dtype=np.uint8)

    def set_state(self, state: Any) -> None:
        version, shape, kind, fortran, data = state
        dtype = kind.dtype if isinstance(kind, NumberType) else None
        if dtype is None:
            return
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            raise pickle.UnpicklingError("an array whose bytes do not fit its shape")
        super().__setstate__((version, shape, dtype, fortran, data))
        self.filled = True


def _measure(value: Any, seen: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(nesting, size) of containers, shared ones counted each time. Raises UnpicklingError if one contains itself."""
    if not isinstance(value, (dict, list, tuple, set, frozenset)):
        return 0, 1
    if id(value) not in seen:
        seen[id(value)] = (_NESTING, 0)  # until its contents are measured
        within = [_measure(v, seen) for v in ((*value.keys(), *value.values()) if isinstance(value, dict) else value)]
        seen[id(value)] = (1 + max((n for n, _ in within), default=0), 1 + sum(n for _, n in within))
    nesting, size = seen[id(value)]
    if nesting >= _NESTING or size > _SIZE:
        raise pickle.UnpicklingError("containers nested too deep, or holding themselves")
    return nesting, size
