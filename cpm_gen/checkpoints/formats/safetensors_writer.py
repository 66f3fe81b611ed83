"""Writes safetensors files one tensor at a time; the library of that name takes all tensors of a file at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cpm_gen.checkpoints.formats.safetensors_file import DTYPES
from cpm_gen.checkpoints.tensor_to_write import TensorToWrite

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8  # of the first tensor in the file


def write_safetensors(path: Path, tensors: Sequence[TensorToWrite], metadata: Mapping[str, str]) -> None:
    """Write a file of these tensors, in their order. Memory: one tensor."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for tensor in tensors:
        place = [at, at + tensor.nbytes]
        header[tensor.name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(tensor.content())
