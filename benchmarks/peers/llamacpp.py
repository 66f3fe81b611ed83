"""llama.cpp through llama-cpp-python's low-level interface: a GGUF file of its GPT-2 architecture, one sequence id per text."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from llama_cpp import llama_cpp as api

from peers.base import Engine, Logits
from peers.weights import EPSILON, Linear, Weights

TYPES = {
    "float32": gguf.GGMLQuantizationType.F32,
    "bfloat16": gguf.GGMLQuantizationType.BF16,
    "int8": gguf.GGMLQuantizationType.Q8_0,
}
NAMES = {
    "norm1": "attn_norm",
    "qkv": "attn_qkv",
    "dense": "attn_output",
    "norm2": "ffn_norm",
    "up": "ffn_up",
    "down": "ffn_down",
}
SILENT = api.llama_log_callback(lambda level, text, data: None)  # must stay alive as long as the process
CHUNK = 512  # prompt tokens in one pass: llama.cpp's default


class LlamaCpp(Engine):
    """Keys and values are fp32 for float32, otherwise fp16, its default."""

    dtypes = ("float32", "bfloat16", "int8")

    @property
    def version(self) -> str:
        info = api.llama_print_system_info().decode()
        has = [name for name in ("AVX512_BF16", "AVX512_VNNI", "AMX_INT8", "REPACK") if f"{name} = 1" in info]
        return f"{llama_cpp.__version__} ({', '.join(has)})"

    @classmethod
    def convert(cls, weights: Weights, dtype: str, target: Path) -> None:
        size = weights.size
        writer = gguf.GGUFWriter(target / "model.gguf", "gpt2")
        writer.add_block_count(size.layers)
        writer.add_context_length(size.positions)
        writer.add_embedding_length(size.hidden)
        writer.add_feed_forward_length(4 * size.hidden)
        writer.add_head_count(size.heads)
        writer.add_layer_norm_eps(EPSILON)
        writer.add_vocab_size(size.vocabulary)
        writer.add_tokenizer_model("none")

        def matrix(name: str, weight: np.ndarray) -> None:
            kind = TYPES[dtype]
            writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)

        def pair(name: str, tensors: Linear) -> None:
            if tensors.weight.ndim == 2:
                matrix(f"{name}.weight", tensors.weight)
            else:
                writer.add_tensor(f"{name}.weight", tensors.weight)
            writer.add_tensor(f"{name}.bias", tensors.bias)

        matrix("token_embd.weight", weights.words)
        writer.add_tensor("position_embd.weight", weights.positions)
        pair("output_norm", weights.last_norm)
        for n in range(size.layers):
            for short, tensors in weights.layer(n).items():
                pair(f"blk.{n}.{NAMES[short]}", tensors)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def load(self, target: Path, dtype: str, threads: int, batch: int) -> None:
        api.llama_log_set(SILENT, ctypes.c_void_p())
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(
            str(target / "model.gguf").encode(), api.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError("llama.cpp does not read its model")
        self._threads = threads
        self._dtype = dtype
        self._vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))

    def room(self, batch: int, length: int) -> None:
        settings = api.llama_context_default_params()
        settings.n_seq_max = batch
        settings.n_ctx = settings.n_batch = batch * -(-length // 256) * 256
        settings.n_ubatch = CHUNK
        settings.n_threads = settings.n_threads_batch = self._threads
        if self._dtype == "float32":
            settings.type_k = settings.type_v = gguf.GGMLQuantizationType.F32
        self._context = api.llama_init_from_model(self._model, settings)
        self._batch = api.llama_batch_init(settings.n_batch, 0, 1)

    def first(self, prompts: list[list[int]]) -> Logits:
        self._length = 0
        return self._run(prompts)

    def step(self, ids: list[int]) -> Logits:
        return self._run([[i] for i in ids])

    def _run(self, texts: list[list[int]]) -> Logits:
        batch, new, at = self._batch, len(texts[0]), 0
        for text, ids in enumerate(texts):
            for offset, token in enumerate(ids):
                batch.token[at] = token
                batch.pos[at] = self._length + offset
                batch.n_seq_id[at] = 1
                batch.seq_id[at][0] = text
                batch.logits[at] = offset == new - 1
                at += 1
        batch.n_tokens = at
        self._length += new
        if status := api.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode gave {status}")
        api.llama_synchronize(self._context)
        rows = ctypes.cast(api.llama_get_logits(self._context), ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(rows, (len(texts), self._vocabulary))

    def end(self) -> None:
        api.llama_batch_free(self._batch)
        api.llama_free(self._context)
