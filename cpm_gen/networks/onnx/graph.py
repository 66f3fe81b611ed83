"""The network as an ONNX graph of primitive operators: opset 13, IR 8, nothing that an older device compiler lacks.

Activations are ``[batch, tokens, hidden]``, attention is over ``[batch, heads, tokens, head_dim]``. Matrices of layers stand in the file as
``[inputs, outputs]``, so that MatMul takes them as they are; all other weights as in :data:`cpm_gen.checkpoints.tensor_table.TABLE`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.config.model_sizes import ModelSize

OPSET, IR_VERSION = 13, 8
MASKED = -30000.0  # added to scores that attention must not see; finite in float16, and its exponential is zero
_KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
Dims = list[int | str | None]


@dataclass(frozen=True)
class Form:
    """What a file takes.

    past: keys and values of earlier tokens are inputs, and those of all tokens are outputs. batch, length: the fixed shape of
    ``input_ids``, which is then the only input; None: shapes are free, and positions and the attention's bias are inputs.
    """

    past: bool = False
    batch: int | None = None
    length: int | None = None


class GraphBuilder:
    """Builds the graph of one network.

    weights: what the file must hold besides :meth:`model`, in the order of their use: by names in the checkpoint, which are those in the
    graph, whether the tensor is stored transposed.
    """

    def __init__(self, checkpoint: Checkpoint, size: ModelSize, form: Form, dtype: str) -> None:
        self.checkpoint, self.size, self.form, self.dtype = checkpoint, size, form, dtype
        self.kind = _KINDS[dtype]
        self.head_dim = size.hidden // size.heads
        self.weights: dict[str, bool] = {}
        self._constants: dict[str, TensorProto] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def model(self, properties: dict[str, str]) -> onnx.ModelProto:
        """The model without its weights. properties: names and values that the file carries."""
        form, size = self.form, self.size
        batch: int | str = form.batch or "batch"
        tokens: int | str = form.length or "tokens"
        inputs = [_value("input_ids", TensorProto.INT64, [batch, tokens])]
        if form.length is None:
            total = "total" if form.past else tokens
            inputs.append(_value("position_ids", TensorProto.INT64, [batch, tokens]))
            inputs.append(_value("attention_bias", self.kind, [batch, 1, tokens, total]))
            positions, bias = "position_ids", "attention_bias"
        else:
            visible = np.tril(np.ones((form.length, form.length), dtype=bool))
            positions = self._constant("positions", np.arange(form.length), np.int64)
            bias = self._constant("causal_bias", np.where(visible, 0.0, MASKED)[None, None])
        words, rows = self._weight("word_embeddings.weight"), self._weight("position_embeddings.weight")
        x = self._add(self._node("Gather", words, "input_ids"), self._node("Gather", rows, positions))
        for layer in range(size.layers):
            if form.past:
                inputs += [_value(f"past_{what}_{layer}", self.kind, self._cached(batch, "past")) for what in _CACHED]
            x = self._layer(x, layer, bias)
        x = self._norm(x, "transformer.final_layernorm")
        head = words if self.checkpoint.variant.tied_head else self._weight("lm_head.weight")
        self._node("MatMul", x, self._node("Transpose", head, perm=[1, 0]), name="logits")
        logits = _value("logits", self.kind, [batch, tokens, size.vocabulary])
        graph = helper.make_graph(
            self._nodes, "gpt2", inputs, [logits, *self._outputs], initializer=list(self._constants.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="cpm-gen",
        )
        helper.set_model_props(model, properties)
        return model

    def _cached(self, batch: int | str, tokens: str) -> Dims:
        return [batch, self.size.heads, tokens, self.head_dim]

    def _layer(self, x: str, layer: int, bias: str) -> str:
        at = f"transformer.layers.{layer}."
        x = self._add(x, self._attention(self._norm(x, at + "input_layernorm"), layer, bias))
        inner = self._linear(self._norm(x, at + "post_attention_layernorm"), at + "mlp.dense_h_to_4h")
        return self._add(x, self._linear(self._gelu(inner), at + "mlp.dense_4h_to_h"))

    def _attention(self, x: str, layer: int, bias: str) -> str:
        at, hidden = f"transformer.layers.{layer}.attention.", self.size.hidden
        qkv = self._linear(x, at + "query_key_value")
        thirds = self._constant("thirds", [hidden] * 3, np.int64)
        q, k, v = (self._heads(part) for part in self._nodes_of("Split", [qkv, thirds], 3, axis=2))
        if self.form.past:
            k, v = (
                self._node("Concat", f"past_{what}_{layer}", new, axis=2, name=f"present_{what}_{layer}")
                for what, new in zip(_CACHED, (k, v), strict=True)
            )
            dims = self._cached(self.form.batch or "batch", "total")
            self._outputs += [_value(name, self.kind, dims) for name in (k, v)]
        scale = self.head_dim**-0.5 / self.checkpoint.variant.score_divisor(layer)
        q = self._node("Mul", q, self._constant(f"scale_{scale}", scale))
        scores = self._add(self._node("MatMul", q, self._node("Transpose", k, perm=[0, 1, 3, 2])), bias)
        mixed = self._node("MatMul", self._node("Softmax", scores, axis=3), v)
        joined = self._constant("joined", [0, 0, hidden], np.int64)
        mixed = self._node("Reshape", self._node("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
        return self._linear(mixed, at + "dense")

    def _heads(self, x: str) -> str:
        """``[batch, tokens, hidden] -> [batch, heads, tokens, head_dim]``."""
        divided = self._constant("divided", [0, 0, self.size.heads, self.head_dim], np.int64)
        return self._node("Transpose", self._node("Reshape", x, divided), perm=[0, 2, 1, 3])

    def _linear(self, x: str, name: str) -> str:
        product = self._node("MatMul", x, self._weight(name + ".weight", transposed=True))
        return self._add(product, self._weight(name + ".bias"))

    def _norm(self, x: str, name: str) -> str:
        """Layer norm; in a float16 file in float32, because squares of activations exceed float16's range."""
        half = self.dtype == "float16"
        if half:
            x = self._node("Cast", x, to=TensorProto.FLOAT)
        x = self._node("Sub", x, self._node("ReduceMean", x, axes=[-1], keepdims=1))
        variance = self._node("ReduceMean", self._node("Mul", x, x), axes=[-1], keepdims=1)
        epsilon = self._constant("epsilon", self.checkpoint.variant.epsilon, np.float32)
        x = self._node("Div", x, self._node("Sqrt", self._add(variance, epsilon)))
        if half:
            x = self._node("Cast", x, to=TensorProto.FLOAT16)
        return self._add(self._node("Mul", x, self._weight(name + ".weight")), self._weight(name + ".bias"))

    def _gelu(self, x: str) -> str:
        one, half = self._constant("one", 1.0), self._constant("half", 0.5)
        if self.checkpoint.variant.gelu == "erf":
            curve = self._node("Erf", self._node("Mul", x, self._constant("root_half", math.sqrt(0.5))))
        else:
            cubic = self._node("Mul", self._node("Mul", x, x), self._constant("cubic", 0.044715))
            inside = self._node("Mul", x, self._add(cubic, one))
            curve = self._node("Tanh", self._node("Mul", inside, self._constant("slope", math.sqrt(2 / math.pi))))
        return self._node("Mul", self._node("Mul", x, half), self._add(curve, one))

    def _add(self, a: str, b: str) -> str:
        return self._node("Add", a, b)

    def _weight(self, name: str, *, transposed: bool = False) -> str:
        self.weights[name] = transposed
        return name

    def _constant(self, name: str, value: Any, dtype: Any = None) -> str:
        if name not in self._constants:
            array = np.asarray(value, dtype or self.dtype)
            self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def _node(self, op: str, *inputs: str, name: str | None = None, **attributes: Any) -> str:
        return self._nodes_of(op, list(inputs), 1, name, **attributes)[0]

    def _nodes_of(
        self, op: str, inputs: list[str], outputs: int, name: str | None = None, **attributes: Any
    ) -> list[str]:
        name = name or f"{op.lower()}_{len(self._nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{n}" for n in range(outputs)]
        self._nodes.append(helper.make_node(op, inputs, names, name=name, **attributes))
        return names


_CACHED = ("key", "value")


def _value(name: str, kind: int, dims: Dims) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)
