"""OpenVINO: the network as a stateful graph in the form that its CPU plugin fuses (keys and values stay inside it).

In int8 only weights are quantised beforehand (nncf, one scale per row), as OpenVINO recommends for language models. Its plugin
quantises activations itself if that is faster on the processor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from peers.base import Engine, Logits
from peers.weights import EPSILON, Linear, Weights


class OpenVino(Engine):
    """One stream over all threads, tuned for latency."""

    dtypes = ("float32", "bfloat16", "int8")

    @property
    def version(self) -> str:
        return str(ov.__version__).split("-")[0]

    @classmethod
    def convert(cls, weights: Weights, dtype: str, target: Path) -> None:
        model = graph(weights)
        if dtype == "int8":
            import nncf

            model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
        ov.save_model(model, target / "model.xml", compress_to_fp16=False)

    def load(self, target: Path, dtype: str, threads: int, batch: int) -> None:
        settings: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32" if dtype == "float32" else "bf16",
        }
        if dtype == "float32":
            settings["KV_CACHE_PRECISION"] = "f32"  # otherwise 8 bits; for the other precisions the default is used
        compiled = ov.Core().compile_model(target / "model.xml", "CPU", settings)
        self._request = compiled.create_infer_request()

    def first(self, prompts: list[list[int]]) -> Logits:
        self._request.reset_state()
        self._length = 0
        return self._run(np.array(prompts))

    def step(self, ids: list[int]) -> Logits:
        return self._run(np.array(ids)[:, None])

    def _run(self, ids: NDArray[np.int64]) -> Logits:
        batch, new = ids.shape
        positions = np.arange(self._length, self._length + new)
        self._length += new
        self._request.infer(
            {"ids": ids, "positions": positions, "beams": np.arange(batch, dtype=np.int32)}, share_inputs=True
        )
        logits: Logits = self._request.get_output_tensor(0).data
        return logits

    def end(self) -> None:
        self._request.reset_state()


def graph(weights: Weights) -> ov.Model:
    """``ids [batch, new]``, ``positions [new]``, ``beams [batch]`` (0, 1, …) -> ``logits [batch, vocabulary]`` after the last tokens."""
    size = weights.size
    ids = op.parameter([-1, -1], np.int64, name="ids")
    positions = op.parameter([-1], np.int64, name="positions")
    beams = op.parameter([-1], np.int32, name="beams")
    words = op.constant(weights.words)
    x = op.add(op.gather(words, ids, 0), op.gather(op.constant(weights.positions), positions, 0))
    head = size.hidden // size.heads
    batch = op.gather(op.shape_of(ids), [0], 0)
    empty = op.broadcast(np.float32(0), op.concat([batch, op.constant(np.array([size.heads, 0, head]))], 0))
    assigned = []

    def keep(new: ov.Node, name: str) -> ov.Node:
        """The cache with ``new`` appended, ``[batch, heads, all, head]``; the result becomes the cache."""
        old = op.read_value(empty, name, np.float32, [-1, size.heads, -1, head])
        both = op.concat([op.gather(old, beams, 0), new], 2)
        assigned.append(op.assign(both, name))
        return both

    for n in range(size.layers):
        layer = weights.layer(n)
        qkv = op.reshape(_linear(_norm(x, layer["norm1"]), layer["qkv"]), [0, 0, 3, size.heads, head], True)
        q, k, v = (op.transpose(op.squeeze(part, 2), [0, 2, 1, 3]) for part in op.split(qkv, 2, 3).outputs())
        k, v = keep(k, f"key.{n}"), keep(v, f"value.{n}")
        mixed = op.transpose(op.scaled_dot_product_attention(q, k, v, causal=True), [0, 2, 1, 3])
        x = op.add(x, _linear(op.reshape(mixed, [0, 0, size.hidden], True), layer["dense"]))
        up = op.gelu(_linear(_norm(x, layer["norm2"]), layer["up"]), "tanh")
        x = op.add(x, _linear(up, layer["down"]))
    last = op.gather(x, np.int64(-1), 1)
    logits = op.matmul(_norm(last, weights.last_norm), words, False, True)
    return ov.Model([op.result(logits, name="logits")], assigned, [ids, positions, beams])


def _linear(x: ov.Node, linear: Linear) -> ov.Node:
    return op.add(op.matmul(x, op.constant(linear.weight), False, True), op.constant(linear.bias))


def _norm(x: ov.Node, norm: Linear) -> ov.Node:
    scaled = op.mvn(x, np.array([-1]), True, EPSILON, "inside_sqrt")
    return op.add(op.multiply(scaled, op.constant(norm.weight)), op.constant(norm.bias))
