"""Checkpoints with random weights in the sizes of published models, and saving of result rows as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.formats.huggingface import stored_names
from cpm_gen.checkpoints.formats.megatron import save_checkpoint
from cpm_gen.config.files import shipped
from cpm_gen.config.model_sizes import ModelSize, read_size

TINY = ModelSize(layers=3, hidden=256, heads=4, vocabulary=3000, positions=1024)  # for trying out the benchmarks
SHALLOW = ModelSize(
    layers=1, hidden=64, heads=4, vocabulary=30_000, positions=1024
)  # for what depends on the vocabulary only

# networks that people own as Hugging Face folders: uer/gpt2-chinese-cluecorpussmall and IDEA-CCNL/Wenzhong-GPT2-110M
FOLDERS = {
    "uer-small": ModelSize(layers=12, hidden=768, heads=12, vocabulary=21128, positions=1024),
    "wenzhong": ModelSize(layers=12, hidden=768, heads=12, vocabulary=50257, positions=1024),
}


def size_of(name: str) -> ModelSize:
    """The sizes in ``configs/NAME.yaml``, of a folder in ``FOLDERS``, or those of "tiny" and "shallow"."""
    if name in FOLDERS:
        return FOLDERS[name]
    if name in ("tiny", "shallow"):
        return TINY if name == "tiny" else SHALLOW
    return read_size(shipped(f"{name}.yaml"))


def random_checkpoint(
    folder: Path, name: str, *, degree: int = 1, dtype: torch.dtype = torch.float16, varied: bool = False
) -> ModelSize:
    """Write a network of the named size to ``folder``, with the same weights in every run.

    Biases are zero and norms one, as in a new network. With ``varied`` they differ, and layers outweigh the embedding, so that
    greedy texts do not repeat one token and a deviation of an engine becomes visible. A network of ``FOLDERS`` is written as a Hugging
    Face folder with float32 weights in one ``pytorch_model.bin``, the form in which it is published.
    """
    size = size_of(name)
    generator = torch.Generator().manual_seed(0)
    state = {}
    for tensor in tensor_table.names(size.layers):
        shape = tensor_table.whole_shape(
            tensor, vocabulary=size.vocabulary, positions=size.positions, hidden=size.hidden
        )
        if varied and len(shape) == 1:
            noise = 0.2 * torch.randn(shape, generator=generator)
            state[tensor] = (noise + float("layernorm.weight" in tensor)).to(dtype)
        elif "layernorm.weight" in tensor:
            state[tensor] = torch.ones(shape, dtype=dtype)
        elif tensor.endswith("bias"):
            state[tensor] = torch.zeros(shape, dtype=dtype)
        else:
            gain = 2.0 if varied and tensor.startswith("transformer") else 1.0
            state[tensor] = (gain * torch.randn(shape, generator=generator) / math.sqrt(shape[-1])).to(dtype)
    if name in FOLDERS:
        write_folder(folder, state, size)
        return size
    save_checkpoint(folder, state, degree=degree, iteration=0)
    (folder / "config.json").write_text(json.dumps({"heads": size.heads}))
    return size


def write_folder(folder: Path, state: dict[str, torch.Tensor], size: ModelSize) -> None:
    """Write a whole network as a Hugging Face folder."""
    named = {}
    for name, theirs, transposed in stored_names(size.layers):
        value = state[name].float()
        named[f"transformer.{theirs}"] = value.T.contiguous() if transposed else value
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(named, folder / "pytorch_model.bin")
    config = {"model_type": "gpt2", "n_layer": size.layers, "n_embd": size.hidden, "n_head": size.heads}
    config |= {"vocab_size": size.vocabulary, "n_positions": size.positions}
    (folder / "config.json").write_text(json.dumps(config))


def bytes_per_step(size: ModelSize, dtype: str, batch: int, length: float) -> float:
    """Bytes that a decode step must read: every weight once, and keys and values of ``batch`` texts of ``length`` tokens.

    This is the minimum for a precision, the same for all engines. int8 has one fp32 scale per row. Norms, biases, keys and values have
    the precision of the activations, which int8 leaves at 16 bits.
    """
    h = size.hidden
    matrices = size.layers * 12 * h * h + size.vocabulary * h
    vectors = size.layers * 13 * h + 2 * h
    wide = {"float32": 4, "bfloat16": 2, "int8": 2}[dtype]
    narrow = 1 if dtype == "int8" else wide
    scales = 4 * (size.layers * 9 * h + size.vocabulary) if dtype == "int8" else 0
    return narrow * matrices + wide * vectors + scales + wide * 2 * size.layers * h * length * batch


def percentile(times: list[float], share: float) -> float:
    """The value below which the given share of ``times`` lies."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


def save(rows: list[dict[str, Any]], path: Path | None) -> None:
    """Write a benchmark's rows to ``path`` as a JSON list, if ``path`` is given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
