"""Sizes of CPM-1 networks, and the files of ``configs/`` that hold them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cpm_gen.config.files import read_yaml, shipped
from cpm_gen.errors import ConfigError


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a CPM-1 network. Everything but ``heads`` can be read from a checkpoint's tensors."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    positions: int

    @property
    def parameters(self) -> int:
        """Number of parameters, the tied head counted once."""
        h = self.hidden
        return (self.vocabulary + self.positions) * h + self.layers * (12 * h * h + 13 * h) + 2 * h

    def numbers(self) -> RankNumbers:
        """What one rank alone holds of a network of this size."""
        h = self.hidden
        matrices = self.vocabulary * h + self.layers * 12 * h * h
        return RankNumbers(
            matrices=matrices,
            rows=self.vocabulary + self.layers * 9 * h,
            others=self.parameters - matrices,
            window=2 * self.layers * self.positions * h,
        )


@dataclass(frozen=True)
class RankNumbers:
    """How many numbers a rank holds, which its memory follows from.

    matrices: weights that int8 stores in 8 bits. rows: of these matrices, each with a scale in int8. others: all other weights.
    window: keys and values of one full window.
    """

    matrices: int
    rows: int
    others: int
    window: int

    def memory(self) -> dict[str, tuple[int, int]]:
        """Bytes of the weights and of one window by number format; int8 has its other weights in float32 and its window in 16 bits."""
        weights = self.matrices + self.others
        return {
            "float32": (4 * weights, 4 * self.window),
            "float16": (2 * weights, 2 * self.window),
            "int8": (self.matrices + 4 * (self.rows + self.others), 2 * self.window),
        }


@dataclass(frozen=True)
class NetworkVariant:
    """How a GPT-2 network differs from CPM-1's, which has the default values.

    inner: width of the MLP's hidden layer; None: four times the hidden size. gelu: the form of its activation. epsilon: of the layer
    norms. tied_head: whether the output head is the word embedding; False: it has weights of its own, ``lm_head.weight``.
    scale_by_layer: whether the attention scores of layer i (from 0) are divided by i + 1.
    """

    inner: int | None = None
    gelu: Literal["tanh", "erf"] = "tanh"
    epsilon: float = 1e-5
    tied_head: bool = True
    scale_by_layer: bool = False

    def inner_size(self, hidden: int) -> int:
        """Width of the MLP's hidden layer in a network of that hidden size."""
        return 4 * hidden if self.inner is None else self.inner

    def differences(self) -> dict[str, Any]:
        """The fields that are not CPM-1's, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value != getattr(CPM_1, name)}

    def score_divisor(self, layer: int) -> int:
        """What the attention scores of a layer are divided by besides ``sqrt(head_dim)``."""
        return layer + 1 if self.scale_by_layer else 1


CPM_1 = NetworkVariant()


def parse_size(content: Any, path: Path) -> ModelSize:
    """The sizes under the key ``size`` of the file at ``path``; raises ConfigError if one is missing or no whole number."""
    names = [f.name for f in dataclasses.fields(ModelSize)]
    if not isinstance(content, dict) or set(content) != set(names) or any(type(v) is not int for v in content.values()):
        raise ConfigError(f"{path}: 'size' must hold whole numbers for {', '.join(names)}")
    return ModelSize(**content)


def read_size(path: Path) -> ModelSize:
    """The sizes in a model-size file such as ``configs/cpm-medium.yaml``."""
    return parse_size(read_yaml(path).get("size"), path)


KNOWN_SIZES = ("cpm-large.yaml", "cpm-medium.yaml", "cpm-distill.yaml")


def known_heads(hidden: int) -> int | None:
    """Heads of the published CPM-1 network with that hidden size, if there is one."""
    sizes = (read_size(shipped(name)) for name in KNOWN_SIZES)
    return next((s.heads for s in sizes if s.hidden == hidden), None)
