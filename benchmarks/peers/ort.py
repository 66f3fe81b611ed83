"""onnxruntime: the network in ONNX with fused CPU operators; keys and values stay in one buffer per layer.

int8 is dynamic quantisation as ``quantize_dynamic`` produces it after fusing: weights with one scale per row, activations with one
scale per product. The embedding stays fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from peers.base import Engine, Logits
from peers.weights import EPSILON, Linear, Weights

FUSED = "com.microsoft"


class OnnxRuntime(Engine):
    """One session with bound inputs and outputs."""

    dtypes = ("float32", "int8")

    @property
    def version(self) -> str:
        return str(ort.__version__)

    @classmethod
    def convert(cls, weights: Weights, dtype: str, target: Path) -> None:
        model = Graph(weights, dtype == "int8").model()
        file = target / "model.onnx"
        onnx.save(model, file, save_as_external_data=True, location="model.data")

    def load(self, target: Path, dtype: str, threads: int, batch: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._session = ort.InferenceSession(target / "model.onnx", options, providers=["CPUExecutionProvider"])
        inputs = {i.name: i for i in self._session.get_inputs()}
        self._layers = sum(name.startswith("key") for name in inputs)
        _, self._heads, _, self._head = inputs["key0"].shape

    def room(self, batch: int, length: int) -> None:
        shape = (batch, self._heads, length, self._head)
        self._kept = {
            f"{kind}{n}": ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
            for n in range(self._layers)
            for kind in ("key", "value")
        }

    def first(self, prompts: list[list[int]]) -> Logits:
        self._length = 0
        return self._run(np.array(prompts))

    def step(self, ids: list[int]) -> Logits:
        return self._run(np.array(ids)[:, None])

    def _run(self, ids: NDArray[np.int64]) -> Logits:
        batch, new = ids.shape
        positions = np.arange(self._length, self._length + new)
        self._length += new
        binding = self._session.io_binding()
        binding.bind_cpu_input("ids", ids)
        binding.bind_cpu_input("positions", positions)
        binding.bind_cpu_input("last", np.full(batch, self._length - 1, np.int32))
        binding.bind_cpu_input("length", np.array(self._length, np.int32))
        for name, value in self._kept.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(f"new_{name}", value)
        binding.bind_output("logits")
        self._session.run_with_iobinding(binding)
        logits: Logits = binding.get_outputs()[-1].numpy()
        return logits

    def end(self) -> None:
        del self._kept


class Graph:
    """Builds the network's ONNX graph."""

    def __init__(self, weights: Weights, int8: bool) -> None:
        self.weights = weights
        self.int8 = int8
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self._names: Iterator[str] = (f"t{n}" for n in range(1 << 30))

    def constant(self, value: NDArray) -> str:
        name = next(self._names)
        self.tensors.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def node(
        self, kind: str, inputs: list[str], domain: str = "", outputs: list[str] | None = None, **more: object
    ) -> str:
        """Add a node; returns the name of its first output."""
        outputs = outputs or [next(self._names)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, domain=domain, **more))
        return outputs[0]

    def linear(
        self, x: str, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, out: str | None = None
    ) -> str:
        outputs = [out] if out else None
        more = [] if bias is None else [self.constant(bias)]
        if self.int8:
            scale = np.abs(weight).max(1) / 127
            whole = np.rint(weight / scale[:, None]).astype(np.int8).T
            zero = self.constant(np.zeros(len(scale), np.int8))
            inputs = [x, self.constant(whole), self.constant(scale), zero, *more]
            return self.node("DynamicQuantizeMatMul", inputs, FUSED, outputs)
        if not more:
            return self.node("MatMul", [x, self.constant(weight.T)], outputs=outputs)
        return self.node("Add", [self.node("MatMul", [x, self.constant(weight.T)]), *more], outputs=outputs)

    def norm(self, x: str, norm: Linear) -> str:
        inputs = [x, self.constant(norm.weight), self.constant(norm.bias)]
        return self.node("LayerNormalization", inputs, axis=-1, epsilon=EPSILON)

    def attention(self, qkv: str, n: int) -> str:
        heads = self.weights.size.heads
        inputs = [qkv, "", "", f"key{n}", f"value{n}", "last", "length"]
        outputs = [next(self._names), f"new_key{n}", f"new_value{n}"]
        return self.node("GroupQueryAttention", inputs, FUSED, outputs, num_heads=heads, kv_num_heads=heads)

    def model(self) -> onnx.ModelProto:
        """``ids [batch, new]`` and the KV cache -> ``logits [batch, vocabulary]`` after the last tokens."""
        weights, size = self.weights, self.weights.size
        words = weights.words
        embedded = self.node("Gather", [self.constant(words), "ids"])
        x = self.node("Add", [embedded, self.node("Gather", [self.constant(weights.positions), "positions"])])
        for n in range(size.layers):
            layer = weights.layer(n)
            qkv = self.linear(self.norm(x, layer["norm1"]), layer["qkv"].weight, layer["qkv"].bias)
            mixed = self.attention(qkv, n)
            x = self.node("Add", [x, self.linear(mixed, layer["dense"].weight, layer["dense"].bias)])
            up = self.linear(self.norm(x, layer["norm2"]), layer["up"].weight, layer["up"].bias)
            up = self.node("Gelu", [up], approximate="tanh")
            x = self.node("Add", [x, self.linear(up, layer["down"].weight, layer["down"].bias)])
        last = self.node("Gather", [x, self.constant(np.array(-1))], axis=1)
        self.linear(self.norm(last, weights.last_norm), words, None, out="logits")
        kept = ["batch", size.heads, "room", size.hidden // size.heads]
        names = [f"{kind}{n}" for n in range(size.layers) for kind in ("key", "value")]

        def value(name: str, kind: int, shape: list) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, shape)

        inputs = [
            value("ids", TensorProto.INT64, ["batch", "new"]),
            value("positions", TensorProto.INT64, ["new"]),
            value("last", TensorProto.INT32, ["batch"]),
            value("length", TensorProto.INT32, []),
            *(value(name, TensorProto.FLOAT, kept) for name in names),
        ]
        outputs = [
            *(value(f"new_{name}", TensorProto.FLOAT, kept) for name in names),
            value("logits", TensorProto.FLOAT, ["batch", size.vocabulary]),
        ]
        graph = helper.make_graph(self.nodes, "cpm", inputs, outputs, self.tensors)
        imports = [helper.make_opsetid("", 20), helper.make_opsetid(FUSED, 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)
