"""A checkpoint of any format as transformers' GPT-2, and back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.attention_heads import resolve_heads
from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.formats.huggingface import stored_names
from cpm_gen.checkpoints.formats.huggingface_writer import network_config
from cpm_gen.checkpoints.tensor_to_write import read_slice
from cpm_gen.config.files import shipped
from cpm_gen.config.model_sizes import ModelSize, read_size
from cpm_gen.errors import CheckpointError, ConfigError
from cpm_gen.finetuning.language_model import ATTENTION, LanguageModel

_SIZE = re.compile(r"(\d{1,4})x(\d{1,6})x(\d{1,4})x(\d{1,6})")
_BODY = "transformer."


def load_network(checkpoint: Checkpoint, heads: int | None, dropout: float) -> LanguageModel:
    """The network of a checkpoint in float32. Raises CheckpointError for an ONNX file and for heads that are not known."""
    if checkpoint.is_onnx:
        raise CheckpointError(
            f"{checkpoint.folder}: an ONNX file cannot be trained; take the checkpoint that it was made from"
        )
    config = network_config(checkpoint, resolve_heads(checkpoint, heads), torch.float32, {})
    model = LanguageModel(_config(config, dropout))
    own = model.state_dict()
    with torch.no_grad():
        for name, theirs, turned in stored_names(checkpoint.layers):
            own[_BODY + theirs].copy_(read_slice(checkpoint, name, 0, 1, torch.float32, transposed=turned))
        if not checkpoint.variant.tied_head:
            own[tensor_table.HEAD].copy_(read_slice(checkpoint, tensor_table.HEAD, 0, 1, torch.float32))
    return model


def new_network(size: ModelSize, dropout: float, seed: int) -> LanguageModel:
    """A network of CPM-1's kind with random weights, in float32."""
    config = {
        "vocab_size": size.vocabulary,
        "n_positions": size.positions,
        "n_embd": size.hidden,
        "n_layer": size.layers,
        "n_head": size.heads,
    }
    torch.manual_seed(seed)
    return LanguageModel(_config(config, dropout))


def _config(content: Mapping[str, Any], dropout: float) -> GPT2Config:
    ids = {"bos_token_id": None, "eos_token_id": None}  # else GPT-2's, which are no rows here
    if content.get("activation_function", "gelu_new") == "gelu_new":  # in transformers eight operations, in torch one
        content = {**content, "activation_function": "gelu_pytorch_tanh"}
    dropouts = {"embd_pdrop": dropout, "resid_pdrop": dropout, "attn_pdrop": dropout}
    return GPT2Config(**{**ids, **content, **dropouts, "use_cache": False, "attn_implementation": ATTENTION})


def parse_size(text: str, vocabulary: int) -> ModelSize:
    """The sizes that ``--from-nothing`` names, with a vocabulary of ``vocabulary`` pieces; raises ConfigError."""
    if found := _SIZE.fullmatch(text):
        layers, hidden, heads, positions = map(int, found.groups())
    elif text[:1].isdigit():
        raise ConfigError(
            f"--from-nothing: {text!r} is no size; give LAYERSxHIDDENxHEADSxPOSITIONS, such as 6x256x8x512"
        )
    else:
        path = Path(text)
        size = read_size(path if path.is_file() else shipped(f"{text.removesuffix('.yaml')}.yaml"))
        layers, hidden, heads, positions = size.layers, size.hidden, size.heads, size.positions
    if min(layers, hidden, heads) < 1 or positions < 16:
        raise ConfigError("--from-nothing: layers, hidden size and heads must be at least 1, positions at least 16")
    if hidden % heads:
        raise ConfigError(f"--from-nothing: {heads} heads do not divide the hidden size {hidden}")
    return ModelSize(layers, hidden, heads, vocabulary, positions)


def weights_hash(model: torch.nn.Module) -> str:
    """SHA-256 of all weights, by name: equal for equal networks."""
    digest = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(values))
    return digest.hexdigest()


def _bytes(values: Tensor) -> Any:
    return values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
