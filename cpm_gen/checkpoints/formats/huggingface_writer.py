"""Writes Hugging Face folders: config.json and whole tensors in safetensors files, in several from a certain size on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.formats.huggingface import stored_names
from cpm_gen.checkpoints.formats.safetensors_writer import write_safetensors
from cpm_gen.checkpoints.network_config import CONFIG, read_config
from cpm_gen.checkpoints.tensor_to_write import TensorToWrite

SHARD_BYTES = 5_000_000_000  # most bytes of tensors in a file, as transformers has it
_BODY = "transformer."
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_ACTIVATIONS = {"tanh": "gelu_new", "erf": "gelu"}


def write_folder(
    checkpoint: Checkpoint,
    heads: int,
    read: Callable[[str, bool], Tensor],
    dtype_of: Callable[[str], torch.dtype],
    work: Path,
    *,
    token_ids: Mapping[str, int | None],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the folder's config.json and weights into ``work``.

    read: returns the whole tensor of a name, or the matrix transposed. dtype_of: its dtype. token_ids: fields of config.json such as
    ``eos_token_id``, if the source's config.json does not say them.
    """
    names = [(ours, _BODY + theirs, turned) for ours, theirs, turned in stored_names(checkpoint.layers)]
    if not checkpoint.variant.tied_head:
        names.append((tensor_table.HEAD, tensor_table.HEAD, False))
    tensors = [_tensor(checkpoint, ours, theirs, turned, read, dtype_of) for ours, theirs, turned in names]
    files = _divided(tensors, shard_bytes)
    if len(files) == 1:
        write_safetensors(work / "model.safetensors", tensors, {"format": "pt"})
    else:
        mapped: dict[str, str] = {}
        for n, part in enumerate(files, 1):
            name = f"model-{n:05}-of-{len(files):05}.safetensors"
            mapped |= {tensor.name: name for tensor in part}
            write_safetensors(work / name, part, {"format": "pt"})
        size = sum(tensor.nbytes for tensor in tensors)
        index = {"metadata": {"total_size": size}, "weight_map": mapped}
        (work / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    config = network_config(checkpoint, heads, dtype_of("word_embeddings.weight"), token_ids)
    (work / CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _tensor(
    checkpoint: Checkpoint,
    ours: str,
    theirs: str,
    turned: bool,
    read: Callable[[str, bool], Tensor],
    dtype_of: Callable[[str], torch.dtype],
) -> TensorToWrite:
    shape = checkpoint.shape(ours)
    return TensorToWrite(
        theirs,
        shape[::-1] if turned else shape,
        dtype_of(ours),
        lambda: read(ours, turned),
    )


def _divided(tensors: list[TensorToWrite], most: int) -> list[list[TensorToWrite]]:
    """The tensors of each file; a tensor larger than ``most`` bytes has a file of its own."""
    files: list[list[TensorToWrite]] = [[]]
    size = 0
    for tensor in tensors:
        if files[-1] and size + tensor.nbytes > most:
            files.append([])
            size = 0
        files[-1].append(tensor)
        size += tensor.nbytes
    return files


def network_config(
    checkpoint: Checkpoint, heads: int, dtype: torch.dtype, token_ids: Mapping[str, int | None]
) -> dict[str, Any]:
    """The content of a config.json: what the source's says if it is transformers', with the network that was read."""
    found = read_config(checkpoint.folder) if checkpoint.folder.is_dir() else None
    content = found.content if found and "n_embd" in found.content else {}
    variant = checkpoint.variant
    said = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": checkpoint.vocabulary,
        "n_positions": checkpoint.positions,
        "n_embd": checkpoint.hidden,
        "n_layer": checkpoint.layers,
        "n_head": heads,
        "n_inner": variant.inner,
        "activation_function": _ACTIVATIONS[variant.gelu],
        "layer_norm_epsilon": variant.epsilon,
        "scale_attn_by_inverse_layer_idx": variant.scale_by_layer,
        "tie_word_embeddings": variant.tied_head,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    content = {name: value for name, value in content.items() if name != "dtype"}  # a newer name of torch_dtype
    outside = (n for n in _TOKEN_IDS if isinstance(content.get(n), int) and content[n] >= checkpoint.vocabulary)
    for name in list(outside):  # GPT-2's 50256, which many folders say without having such a row
        del content[name]
    return {**token_ids, **content, **said}
