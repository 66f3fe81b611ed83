"""The globals that a pickle of a checkpoint may name, and the harmless objects that stand for what they make."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from cpm_gen.checkpoints.formats.plain_containers import Containers

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

_DTYPES = {("torch", str(dtype).removeprefix("torch.")): dtype for dtype in STORAGE_DTYPES.values()}
_DIMENSIONS = 64  # numpy's limit and torch's


class Dropped:
    """Stands where an object stood that is not in the table. The pickle machine ignores whatever is done to it."""

    __slots__ = ("origin",)

    def __init__(self, origin: str = "") -> None:
        self.origin = origin


class Budget:
    """How many bytes and elements calls may copy. A pickle that shares nothing cannot exceed its own length."""

    def __init__(self, left: int) -> None:
        self._left = left

    def spend(self, count: int) -> None:
        """Raises UnpicklingError if more is copied than the pickle is long."""
        self._left -= count
        if self._left < 0:
            raise pickle.UnpicklingError("one value copied too often")


class NumberType:
    """numpy's dtype of plain numbers, by its code and byte order.

    ``dtype`` is None for all others: an array of objects would be a pickle inside the pickle. numpy's own class is not used: a
    pickle can give it flags and fields that numpy trusts.
    """

    def __init__(self, code: Any) -> None:
        dtype = np.dtype(code) if isinstance(code, str) and len(code) <= 8 else None
        self.dtype = dtype if dtype is not None and dtype.kind in "biufc" and dtype.names is None else None

    def set_state(self, state: Any) -> None:
        """Set the byte order that a pickle gives; everything else in ``state`` is ignored."""
        if self.dtype is not None and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class Array(np.ndarray[Any, Any]):
    """An empty array that accepts only the state of an array of numbers. With any other state it counts as dropped."""

    filled = False
    budget: Budget

    def __new__(cls, budget: Budget) -> Array:
        budget.spend(64)
        made = np.ndarray.__new__(cls, (0,), dtype=np.uint8)
        made.budget = budget
        return made

    def set_state(self, state: Any) -> None:
        """Fill the array; raises UnpicklingError (or another Exception) if the bytes do not fit the shape."""
        version, shape, kind, fortran, data = state
        dtype = kind.dtype if isinstance(kind, NumberType) else None
        if dtype is None:
            return
        shape = whole_numbers(shape)
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            raise pickle.UnpicklingError("an array whose bytes do not fit its shape")
        self.budget.spend(len(data))
        super().__setstate__((version, shape, dtype, fortran, data))
        self.filled = True


def whole_numbers(values: Any) -> tuple[int, ...]:
    """A shape or a stride; raises UnpicklingError if it is none."""
    if type(values) not in (tuple, list) or len(values) > _DIMENSIONS or any(type(n) is not int for n in values):
        raise pickle.UnpicklingError("a shape or stride that is not made of whole numbers")
    return tuple(values)


def known(
    make: MakeTensor, note: Callable[[str], None], budget: Budget, containers: Containers
) -> dict[tuple[str, str], Any]:
    """The table: (module, name) to a function or a dtype. A new one for each pickle: no file can alter what the next one sees.

    make: see :data:`MakeTensor`. note: is given the name of each numpy dtype that is not loaded.
    """

    def tensor(storage: Any, first: int, shape: Any, stride: Any, *_: Any) -> Any:
        return make(storage, None, first, whole_numbers(shape), whole_numbers(stride))

    def tensor_v3(storage: Any, first: int, shape: Any, stride: Any, _: Any, __: Any, dtype: Any, *___: Any) -> Any:
        return make(storage, dtype, first, whole_numbers(shape), whole_numbers(stride))

    def parameter(data: Any, *_: Any) -> Any:
        return data

    def latin1(text: str, encoding: str) -> bytes:
        if encoding != "latin1" or type(text) is not str:
            raise pickle.UnpicklingError("bytes in an unexpected encoding")
        budget.spend(len(text))
        return text.encode("latin1")

    def complex_number(real: Any = 0.0, imaginary: Any = 0.0) -> complex:
        if type(real) not in (int, float) or type(imaginary) not in (int, float):
            raise pickle.UnpicklingError("a complex number that is not made of numbers")
        return complex(real, imaginary)

    def scalar(kind: Any, data: Any = b"") -> Any:
        dtype = kind.dtype if isinstance(kind, NumberType) else None
        if dtype is None or not isinstance(data, bytes) or len(data) != dtype.itemsize:
            return Dropped()
        return np.frombuffer(data, dtype)[0]

    def number_type(code: Any, *_: Any) -> NumberType:
        kind = NumberType(code)
        if kind.dtype is None:
            note(f"numpy.dtype {code}" if type(code) is str else "numpy.dtype")
        return kind

    array = Dropped("numpy.ndarray")  # names the type; calling it makes no array

    table: dict[tuple[str, str], Any] = {
        **_DTYPES,
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_tensor_v3"): tensor_v3,
        ("torch._utils", "_rebuild_parameter"): parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): parameter,
        ("collections", "OrderedDict"): containers.ordered_dictionary,
        ("torch", "Size"): whole_numbers,
        ("_codecs", "encode"): latin1,
    }
    for module in ("builtins", "__builtin__"):
        table |= {(module, "set"): containers.set_of, (module, "frozenset"): containers.frozenset_of}
        table[module, "complex"] = complex_number
        table[module, "bytes"] = lambda: b""  # protocol 2 writes empty bytes so; others go through _codecs
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        table[module, "_reconstruct"] = lambda kind, *_: Array(budget) if kind is array else Dropped()
        table[module, "scalar"] = scalar
    table["numpy", "ndarray"] = array
    table["numpy", "dtype"] = number_type
    return table
