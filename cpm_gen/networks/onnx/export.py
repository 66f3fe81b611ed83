"""Export a checkpoint of any format as an ONNX file, and check it in onnxruntime against the torch network."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpm_gen.checkpoints.attention_heads import resolve_heads
from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.formats.onnx_file import properties
from cpm_gen.checkpoints.publish import Progress, check_source, new_files, no_progress, verify_source
from cpm_gen.checkpoints.tensor_to_write import TensorToWrite, read_slice
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.errors import CheckpointError, ConfigError
from cpm_gen.networks.interface import Segment
from cpm_gen.networks.torch.load_weights import load_into
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.parallel.group import TensorParallel

TOLERANCE = 1e-4  # between logits of a float32 file and of the torch network
TOLERANCE_16 = 0.02  # of a float16 file, as a part of the largest logit
_CHECKED = 48  # tokens of a row that are compared, where the file's shapes are free
_CHUNKS = (5, 1, 17, 1)  # of a row, in a file with past keys and values; the rest is the last chunk


def export_onnx(
    checkpoint: Checkpoint,
    target: Path,
    *,
    heads: int | None = None,
    dtype: str = "float32",
    past: bool = False,
    batch: int | None = None,
    length: int | None = None,
    force: bool = False,
    most_inside: int | None = None,
    progress: Progress = no_progress,
) -> float:
    """Write ``target`` (and ``target.data`` if the weights need a second file); returns the largest difference of logits found.

    dtype: float32 or float16. past, batch, length: see :class:`cpm_gen.networks.onnx.graph.Form`. most_inside: bytes of weights in
    the file itself (None: as many as ONNX can). Raises ConfigError for impossible shapes or without the extra ``onnx``, InputError
    if the target exists (unless ``force``), its folder does not or the disk is full, CheckpointError for a damaged source or a
    file that does not compute what the torch network computes; nothing is then written.
    """
    if missing := next((name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None), None):
        raise ConfigError(
            f"export to ONNX needs {missing}: in the checkout, pip install -c constraints.txt -e '.[onnx]'"
        )
    from cpm_gen.networks.onnx.graph import Form, GraphBuilder
    from cpm_gen.networks.onnx.write_file import MOST_INSIDE, data_name, write_file

    second = target.with_name(data_name(target))
    check_source(checkpoint, target, second, force=force)
    size = checkpoint.size(resolve_heads(checkpoint, heads))
    form = Form(past, batch, length)
    _check_form(past, batch, length, size, dtype)
    verify_source(checkpoint)
    builder = GraphBuilder(checkpoint, size, form, dtype)
    model = builder.model(properties(checkpoint, size.heads, dtype, length or size.positions))

    def file_weight(at: int, name: str, transposed: bool) -> TensorToWrite:
        shape, kind = checkpoint.shape(name), getattr(torch, dtype)

        def read() -> Tensor:
            progress("writing", at, len(builder.weights))
            return read_slice(checkpoint, name, 0, 1, kind, transposed=transposed)

        return TensorToWrite(name, shape[::-1] if transposed else shape, kind, read)

    weights = [file_weight(at, *weight) for at, weight in enumerate(builder.weights.items(), 1)]
    with new_files(target, sum(weight.nbytes for weight in weights)) as work:
        file = work / target.name
        write_file(file, model, weights, most_inside=MOST_INSIDE if most_inside is None else most_inside)
        progress("checking", 0, 1)
        difference = check_file(file, checkpoint, size, dtype)
        progress("checking", 1, 1)
        outside = (work / second.name).exists()
    if not outside:
        second.unlink(missing_ok=True)  # of a file that --force replaced
    return difference


def check_file(path: Path, checkpoint: Checkpoint, size: ModelSize, dtype: str) -> float:
    """The largest difference between logits in onnxruntime and in torch; raises CheckpointError if it is too large."""
    from cpm_gen.networks.onnx.model import OnnxModel, form_of, open_session

    form = form_of(open_session(path, torch.get_num_threads()))
    tokens = form.length or min(size.positions, _CHECKED)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(size.vocabulary, (2, tokens), generator=generator).tolist()
    expected = _torch_logits(checkpoint, size, rows)
    network = OnnxModel(path, size, TensorParallel(), torch.get_num_threads())
    found = (
        [_in_chunks(network, row) for row in rows]
        if form.past
        else network.logits([Segment(row) for row in rows], None)
    )
    difference = max(float((a - b).abs().max()) for a, b in zip(found, expected, strict=True))
    allowed = TOLERANCE
    if dtype == "float16":
        allowed = TOLERANCE_16 * max(float(row.abs().max()) for row in expected)
    if not difference <= allowed:  # NaN is no number that is small enough
        raise CheckpointError(
            f"{checkpoint.folder}: logits of the ONNX file differ by {difference:.2g} from the network's, more than {allowed:.2g}"
            + ("; its activations may exceed float16's range, export it in float32" if dtype == "float16" else "")
        )
    return difference


def _torch_logits(checkpoint: Checkpoint, size: ModelSize, rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits ``[tokens, vocabulary]`` of each row. The network is gone from memory when this returns."""
    network = TorchModel(size, TensorParallel(), checkpoint.variant, dtype=torch.float32, device=torch.device("cpu"))
    load_into(network, checkpoint, rank=0, degree=1)
    with torch.inference_mode():
        return [network.output_head.head(network.hidden([Segment(row)], None)) for row in rows]


def _in_chunks(network: Any, row: Sequence[int]) -> Tensor:
    """Logits of a row that is given in uneven chunks, the first without earlier tokens."""
    cache, parts, at = network.make_cache(1), [], 0
    for count in (*_CHUNKS, len(row)):
        if ids := row[at : at + count]:
            parts += network.logits([Segment(ids, at, 0)], cache)
            at += len(ids)
    return torch.cat(parts)


def _check_form(past: bool, batch: int | None, length: int | None, size: ModelSize, dtype: str) -> None:
    if dtype not in ("float32", "float16"):
        raise ConfigError(f"dtype must be float32 or float16 in an ONNX file, not {dtype}")
    if (batch is None) != (length is None):
        raise ConfigError("a file of fixed shapes needs both --batch and --length")
    if batch is None or length is None:
        return
    if past:
        raise ConfigError("--past needs free shapes: leave --batch and --length out")
    if batch < 1 or not 1 <= length <= size.positions:
        raise ConfigError(
            f"--batch must be at least 1, and --length from 1 to {size.positions}, the network's positions, "
            f"not {batch} and {length}"
        )
