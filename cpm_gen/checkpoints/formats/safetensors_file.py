"""Reads safetensors files: the header is read within bounds, the tensors stay in the mapped file.

A file is the header's length (8 bytes, little-endian), a JSON object with the dtype, shape and byte range of each tensor, and the bytes
of the tensors without gaps. The library of that name is not needed: its tensors cannot release the pages that reading them loaded,
so a load would hold the file beside the packed weights.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from cpm_gen.checkpoints.formats.foreign_files import recognize
from cpm_gen.checkpoints.formats.mapped_file import MappedFile, Storage, TensorRef
from cpm_gen.config.arguments import one_line
from cpm_gen.errors import CheckpointError

_HEADER_BYTES = 16 << 20  # a network of 100 layers has 200 kB
_DIMENSIONS = 8
_METADATA = "__metadata__"
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class SafetensorsFile(MappedFile):
    """One safetensors file. tensors: by name, in the order of the header. metadata: the strings of ``__metadata__``.

    Raises CheckpointError if the file is not of this format, or is truncated or damaged.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.metadata: dict[str, str] = {}
        header, data = self._header()
        self.tensors: dict[str, TensorRef] = {}
        for name, entry in header.items():
            if name != _METADATA:
                self.tensors[name] = self._tensor(name, entry, data)
            elif isinstance(entry, dict) and all(isinstance(value, str) for value in entry.values()):
                self.metadata = entry
            else:
                raise self._damaged(f"{_METADATA} must hold strings")
        self._check_ranges(data)

    def _header(self) -> tuple[dict[str, Any], int]:
        """The header, and the offset of the tensors' bytes in the file."""
        try:
            with self.path.open("rb") as file:
                start = file.read(512)
                length = int.from_bytes(start[:8], "little")
                if length + 8 > self.size or start[8:9] != b"{":
                    # not before: the length's bytes can look like the start of another kind of file
                    if foreign := recognize(start, self.size):
                        raise CheckpointError(f"{self.path}: {foreign}")
                    raise self._damaged(f"{self.size:,} bytes, too few for a header of {length:,}, or no header")
                if length > _HEADER_BYTES:
                    raise self._damaged(f"its header has {length:,} bytes, more than {_HEADER_BYTES:,}")
                file.seek(8)
                text = file.read(length)
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror or error}") from None
        try:
            header = json.loads(text.decode("utf-8"), object_pairs_hook=_each_once)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its header is not JSON: {one_line(error, 100)}") from None
        if not isinstance(header, dict):
            raise self._damaged("its header is not a JSON object")
        return header, 8 + length

    def _tensor(self, name: str, entry: Any, data: int) -> TensorRef:
        try:
            dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            numbers = [*shape, begin, end]
            sound = len(shape) <= _DIMENSIONS and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
        except (TypeError, KeyError, ValueError):
            sound = False
        if not sound or not isinstance(dtype, str):
            raise self._damaged(f"the header's entry of {name!a:.200} is not a dtype, a shape and a range of bytes")
        if dtype not in DTYPES:
            raise CheckpointError(f"{self.path}: {name!a:.200} is {dtype!a:.20}, not F32, F16 or BF16")
        storage = Storage(DTYPES[dtype], math.prod(shape), data + begin)
        if storage.nbytes != end - begin:
            raise self._damaged(f"{name!a:.200} of shape {shape} does not fill its {end - begin:,} bytes")
        strides = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
        return TensorRef(self, storage, storage.dtype, 0, tuple(shape), tuple(strides))

    def _check_ranges(self, data: int) -> None:
        """Check that the tensors fill the rest of the file without gaps, as the format demands."""
        at = data
        for storage in sorted((t.storage for t in self.tensors.values()), key=lambda s: (s.offset, s.nbytes)):
            if storage.offset != at:
                raise self._damaged("its tensors overlap or leave gaps")
            at += storage.nbytes
        if at > self.size:
            raise CheckpointError(
                f"{self.path}: the file ends before its tensors do ({self.size:,} of {at:,} bytes): truncated, perhaps an "
                "unfinished download; download it again"
            )
        if at < self.size:
            raise self._damaged(f"{self.size - at:,} bytes after its last tensor")

    def _damaged(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: not a readable safetensors file, damaged or truncated ({why})")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name stands there twice")
    return content
