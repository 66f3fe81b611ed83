"""Writes GGUF files for llama.cpp, one tensor at a time, and compares them with the source.

llama.cpp's ``gpt2`` computes CPM-1's network: GELU in its tanh form, any width of the MLP, any epsilon, a tied head or one of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.attention_heads import resolve_heads
from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.gguf_vocabulary import Vocabulary
from cpm_gen.checkpoints.publish import Progress, check_source, new_files, no_progress, verify_source
from cpm_gen.checkpoints.tensor_to_write import TensorToWrite, read_slice
from cpm_gen.errors import CheckpointError, ConfigError

_ARCHITECTURE = "gpt2"
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
_OUTSIDE = {
    "word_embeddings.weight": "token_embd.weight",
    "position_embeddings.weight": "position_embd.weight",
    "transformer.final_layernorm.weight": "output_norm.weight",
    "transformer.final_layernorm.bias": "output_norm.bias",
    tensor_table.HEAD: "output.weight",
}


def export_gguf(
    checkpoint: Checkpoint,
    target: Path,
    vocabulary: Vocabulary | None,
    *,
    heads: int | None = None,
    dtype: torch.dtype | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> None:
    """Write ``target``. vocabulary: None: the file takes token ids alone. dtype: of matrices; None: each keeps its own.

    Raises ConfigError without the extra ``gguf``, CheckpointError for a damaged source or a network that llama.cpp does not compute,
    InputError if the target exists (unless ``force``), its folder does not or the disk is full.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError("export to GGUF needs gguf: in the checkout, pip install -c constraints.txt -e '.[gguf]'")
    check_source(checkpoint, target, force=force)
    if checkpoint.variant.gelu != "tanh":
        raise CheckpointError(
            f"{checkpoint.folder}: computes GELU in its erf form, and llama.cpp's gpt2 only in its tanh form; its logits would differ"
        )
    size = checkpoint.size(resolve_heads(checkpoint, heads))
    verify_source(checkpoint)
    tensors = list(_tensors(checkpoint, dtype))
    with new_files(target, sum(tensor.nbytes for tensor in tensors)) as work:
        import gguf

        writer = gguf.GGUFWriter(work / target.name, _ARCHITECTURE)
        writer.add_name(checkpoint.folder.resolve().name)
        writer.add_context_length(size.positions)
        writer.add_embedding_length(size.hidden)
        writer.add_feed_forward_length(checkpoint.variant.inner_size(size.hidden))
        writer.add_block_count(size.layers)
        writer.add_head_count(size.heads)
        writer.add_layer_norm_eps(checkpoint.variant.epsilon)
        writer.add_vocab_size(size.vocabulary)
        writer.add_file_type(_file_type(gguf, tensors[0].dtype))
        _add_vocabulary(writer, vocabulary, size.vocabulary)
        for tensor in tensors:
            kind = _kind(gguf, tensor.dtype)
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        try:
            for n, tensor in enumerate(tensors, 1):
                writer.write_tensor_data(np.frombuffer(tensor.content(), np.uint8))
                progress("writing", n, len(tensors))
        finally:
            writer.close()
        _verify(gguf.GGUFReader(work / target.name), tensors, progress)


def _tensors(checkpoint: Checkpoint, dtype: torch.dtype | None) -> Iterator[TensorToWrite]:
    for name, stored in checkpoint.tensors.items():
        matrix = len(stored.shape) == 2 and name != "position_embeddings.weight"
        # llama.cpp adds vectors and positions in float32
        kind = (dtype or stored.dtype) if matrix else torch.float32
        yield TensorToWrite(_name(name), stored.shape, kind, _reader(checkpoint, name, kind))


def _reader(checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> Any:
    layer, part = tensor_table.split_layer(name)
    divisor = 1 if layer is None else checkpoint.variant.score_divisor(layer)

    def read() -> Tensor:
        if divisor == 1 or not part.startswith("attention.query_key_value."):
            return read_slice(checkpoint, name, 0, 1, dtype)
        values = read_slice(checkpoint, name, 0, 1, torch.float32)
        values[: checkpoint.hidden] /= (
            divisor  # llama.cpp does not divide scores by the layer's number, so the queries are
        )
        return values.to(dtype)

    return read


def _name(name: str) -> str:
    layer, part = tensor_table.split_layer(name)
    if layer is None:
        return _OUTSIDE[name]
    module, kind = part.rsplit(".", 1)
    return f"blk.{layer}.{_IN_LAYER[module]}.{kind}"


def _kind(gguf: Any, dtype: torch.dtype) -> Any:
    kinds = gguf.GGMLQuantizationType
    return {torch.float32: kinds.F32, torch.float16: kinds.F16, torch.bfloat16: kinds.BF16}[dtype]


def _file_type(gguf: Any, dtype: torch.dtype) -> Any:
    kinds = gguf.LlamaFileType
    return {torch.float32: kinds.ALL_F32, torch.float16: kinds.MOSTLY_F16, torch.bfloat16: kinds.MOSTLY_BF16}[dtype]


def _add_vocabulary(writer: Any, vocabulary: Vocabulary | None, rows: int) -> None:
    if vocabulary is None:
        writer.add_tokenizer_model("none")
        return
    padding = rows - len(vocabulary.pieces)  # rows of the embedding without a piece
    writer.add_tokenizer_model("t5")
    writer.add_token_list([*vocabulary.pieces, *(f"[PAD{n}]" for n in range(padding))])
    writer.add_token_scores([*vocabulary.scores, *[-1e6] * padding])
    writer.add_token_types([*vocabulary.types, *[5] * padding])  # 5: unused
    writer.add_precompiled_charsmap(vocabulary.charsmap)
    writer.add_add_space_prefix(vocabulary.prefix)
    writer.add_remove_extra_whitespaces(vocabulary.trims)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    for add, i in (
        (writer.add_eos_token_id, vocabulary.eos),
        (writer.add_unk_token_id, vocabulary.unk),
        (writer.add_pad_token_id, vocabulary.pad),
    ):
        if i is not None:
            add(i)


def _verify(reader: Any, tensors: list[TensorToWrite], progress: Progress) -> None:
    found = {tensor.name: tensor for tensor in reader.tensors}
    for n, tensor in enumerate(tensors, 1):
        stored = found[tensor.name]
        written = np.asarray(stored.data).view(np.uint8).reshape(-1)
        same = tuple(stored.shape[::-1]) == tensor.shape and np.array_equal(
            written, np.frombuffer(tensor.content(), np.uint8)
        )
        if not same:
            raise CheckpointError(f"{tensor.name} was not written as it was read; is the disk sound?")
        progress("verifying", n, len(tensors))
