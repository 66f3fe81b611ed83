"""Write an ONNX file one tensor at a time: a message of protocol buffers whose lengths are known before its weights are read.

``onnx.save`` would hold the weights twice. A message of protocol buffers has less than 2 GiB, so weights that do not fit are written to
a second file beside it, as ONNX's external data.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import IO

import onnx
import torch
from onnx import TensorProto

from cpm_gen.checkpoints.tensor_to_write import TensorToWrite

MOST_INSIDE = (1 << 31) - (1 << 20)  # bytes of weights in the file itself
_KINDS = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}
_ALIGNMENT = 4096  # of a tensor in the second file, so that it can be mapped
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # field numbers: of ModelProto, GraphProto, TensorProto


def data_name(path: Path) -> str:
    """Name of the second file of ``path``."""
    return path.name + ".data"


def write_file(
    path: Path, model: onnx.ModelProto, weights: Sequence[TensorToWrite], *, most_inside: int = MOST_INSIDE
) -> None:
    """Write ``model``, which has no weights yet, with its weights; the second file only if they have more than ``most_inside`` bytes."""
    if sum(weight.nbytes for weight in weights) <= most_inside:
        heads = [_header(weight) + _field(_RAW_DATA, weight.nbytes) for weight in weights]
        with path.open("wb") as file:
            _write_message(file, model, [(head, weight) for head, weight in zip(heads, weights, strict=True)])
        return
    second = path.with_name(data_name(path))
    heads = []
    with second.open("wb") as file:
        for weight in weights:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            heads.append(_header(weight, outside=(second.name, file.tell())))
            file.write(weight.content())
    with path.open("wb") as file:
        _write_message(file, model, [(head, None) for head in heads])


def _write_message(
    file: IO[bytes], model: onnx.ModelProto, tensors: Sequence[tuple[bytes, TensorToWrite | None]]
) -> None:
    graph = model.graph.SerializeToString()
    lengths = [len(head) + (weight.nbytes if weight else 0) for head, weight in tensors]
    whole = len(graph) + sum(len(_field(_INITIALIZER, length)) + length for length in lengths)
    rest = onnx.ModelProto()
    rest.CopyFrom(model)
    rest.ClearField("graph")
    file.write(rest.SerializeToString() + _field(_GRAPH, whole) + graph)
    for (head, weight), length in zip(tensors, lengths, strict=True):
        file.write(_field(_INITIALIZER, length) + head)
        if weight is not None:
            file.write(weight.content())


def _header(weight: TensorToWrite, outside: tuple[str, int] | None = None) -> bytes:
    tensor = TensorProto(name=weight.name, data_type=_KINDS[weight.dtype], dims=weight.shape)
    if outside:
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", outside[0]), ("offset", outside[1]), ("length", weight.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
    content: bytes = tensor.SerializeToString()
    return content


def _field(number: int, length: int) -> bytes:
    """The start of a field that has ``length`` bytes."""
    return _varint(number << 3 | 2) + _varint(length)


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
