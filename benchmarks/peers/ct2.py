"""CTranslate2: a decoder-only model, one batch over all threads. Its generator has no single steps; times come from its callback."""

from __future__ import annotations

import time
from pathlib import Path

import ctranslate2
import numpy as np
from ctranslate2.specs import common_spec, transformer_spec

from peers.base import Decoded, Engine, Logits
from peers.weights import Linear, Weights

COMPUTE = {"float32": "float32", "int8": "int8_float32"}
END = "<end>"  # a token outside the vocabulary, so that no text ends early


class CTranslate2(Engine):
    """Its ``int8`` also quantises activations, which is its default."""

    dtypes = ("float32", "int8")

    @property
    def version(self) -> str:
        return str(ctranslate2.__version__)

    @classmethod
    def convert(cls, weights: Weights, dtype: str, target: Path) -> None:
        size = weights.size
        spec = transformer_spec.TransformerDecoderModelSpec.from_config(
            size.layers, size.heads, pre_norm=True, activation=common_spec.Activation.GELUTanh
        )
        decoder = spec.decoder
        decoder.scale_embeddings = False
        decoder.embeddings.weight = weights.words
        decoder.position_encodings.encodings = weights.positions
        decoder.projection.weight = decoder.embeddings.weight
        _norm(decoder.layer_norm, weights.last_norm)
        for n, to in enumerate(decoder.layer):
            layer = weights.layer(n)
            _norm(to.self_attention.layer_norm, layer["norm1"])
            _linear(to.self_attention.linear[0], layer["qkv"])
            _linear(to.self_attention.linear[1], layer["dense"])
            _norm(to.ffn.layer_norm, layer["norm2"])
            _linear(to.ffn.linear_0, layer["up"])
            _linear(to.ffn.linear_1, layer["down"])
        spec.register_vocabulary([str(n) for n in range(size.vocabulary)])
        spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = "0"
        spec.validate()
        spec.optimize(quantization="int8" if dtype == "int8" else None)
        spec.save(str(target))

    def load(self, target: Path, dtype: str, threads: int, batch: int) -> None:
        self._generator = ctranslate2.Generator(
            str(target), device="cpu", compute_type=COMPUTE[dtype], inter_threads=1, intra_threads=threads
        )

    def logits(self, ids: list[int]) -> Logits:
        rows = self._generator.forward_batch([[str(i) for i in ids]])
        return np.array(rows)[0, -1]

    def decode(self, prompts: list[list[int]], tokens: int, seconds: float) -> Decoded:
        ends: list[float] = []  # time at which the last text of a step got its token
        began = time.perf_counter()

        def done(result: ctranslate2.GenerationStepResult) -> bool:
            now = time.perf_counter()
            if result.step == len(ends):
                ends.append(now)
            ends[result.step] = now
            return now - ends[0] > seconds

        results = self._generator.generate_batch(
            [[str(i) for i in prompt] for prompt in prompts],
            max_length=tokens,
            min_length=tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=done,
        )
        times = np.diff(ends).tolist()
        return Decoded(ends[0] - began, times, [[int(t) for t in r.sequences[0]] for r in results])


def _norm(to: common_spec.LayerNormSpec, norm: Linear) -> None:
    to.gamma, to.beta = norm.weight, norm.bias


def _linear(to: common_spec.LinearSpec, linear: Linear) -> None:
    to.weight, to.bias = linear.weight, linear.bias
