"""ONNX files that ``cpm-gen export`` wrote: sizes from their properties. The weights stay in the file, which is run as it is.

Only the properties are read: a file is a message of protocol buffers, whose other fields are skipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

import torch

from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.errors import CheckpointError

SIZES = ("layers", "hidden", "heads", "vocabulary", "positions")
_PROPERTIES = 14  # field number of ModelProto.metadata_props, whose entries have a key (1) and a value (2)
_FIELDS, _ENTRY_BYTES = 1000, 1 << 16
_PREFIX = "cpm_gen."
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


def is_onnx(path: Path) -> bool:
    """Whether a path is to be opened by :func:`open_file`."""
    return path.suffix == ".onnx" and not path.is_dir()


def properties(checkpoint: Checkpoint, heads: int, dtype: str, positions: int) -> dict[str, str]:
    """What a file of this network says about itself. positions: the most tokens that it takes."""
    sizes = (checkpoint.layers, checkpoint.hidden, heads, checkpoint.vocabulary, positions)
    found = {name: str(size) for name, size in zip(SIZES, sizes, strict=True)} | {"dtype": dtype}
    return {_PREFIX + name: value for name, value in found.items()}


def open_file(path: Path) -> Checkpoint:
    """Read the properties; raises CheckpointError if the file is none that ``cpm-gen export`` wrote."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            found = dict(_entries(file, size))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None
    except (ValueError, IndexError):
        raise CheckpointError(f"{path}: not an ONNX file, or a truncated one") from None
    try:
        sizes = {name: int(found[_PREFIX + name]) for name in SIZES}
        dtype = _DTYPES[found[_PREFIX + "dtype"]]
        if min(sizes.values()) < 1:
            raise ValueError
    except (KeyError, ValueError):
        raise CheckpointError(
            f"{path}: an ONNX file that cpm-gen export did not write; only those can be run"
        ) from None
    second = path.with_name(path.name + ".data")
    return Checkpoint(
        folder=path,
        iteration="release",
        degree=1,
        layers=sizes["layers"],
        hidden=sizes["hidden"],
        vocabulary=sizes["vocabulary"],
        positions=sizes["positions"],
        dtype=dtype,
        files=[path, second] if second.exists() else [path],
        notes=[],
        tensors={},
        format="ONNX",
        heads=sizes["heads"],
    )


def _entries(file: IO[bytes], size: int) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for _ in range(_FIELDS):
        if file.tell() == size:
            return found
        tag = _varint(file)
        length = _varint(file) if tag & 7 == 2 else 0
        if tag & 7 == 2 and tag >> 3 != _PROPERTIES:
            if file.tell() + length > size:
                raise ValueError
            file.seek(length, 1)
        elif tag & 7 == 2:
            content = file.read(length if length <= _ENTRY_BYTES else 0)
            found.append(_entry(content))
        elif tag & 7 == 0:
            _varint(file)
        else:  # ModelProto has no other kinds of field
            raise ValueError
    raise ValueError


def _entry(content: bytes) -> tuple[str, str]:
    """Key and value, both shorter than 128 bytes, as this program writes them; an entry of another program is empty."""
    if len(content) < 4 or content[0] != 0x0A:
        return "", ""
    end = 2 + content[1]
    if content[end : end + 1] != b"\x12" or len(content) != end + 2 + content[end + 1]:
        return "", ""
    return content[2:end].decode(errors="replace"), content[end + 2 :].decode(errors="replace")


def _varint(file: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 63, 7):
        byte = file.read(1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError
