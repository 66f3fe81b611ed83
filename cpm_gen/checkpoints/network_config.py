"""``config.json`` beside a network's weights: its sizes, and how the network differs from CPM-1's. Nothing in it is executed.

The names are those of transformers' GPT-2. Shards may have such a file, too: a folder that was resharded from a Hugging Face folder
keeps it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cpm_gen.checkpoints.small_files import read_small_text
from cpm_gen.config.arguments import shown
from cpm_gen.config.model_sizes import CPM_1, NetworkVariant
from cpm_gen.errors import CheckpointError

CONFIG = "config.json"
_CONFIG_BYTES = 1 << 20
_GELU = {
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate", "gelu_python_tanh"), "tanh"),
    **dict.fromkeys(("gelu", "gelu_python"), "erf"),
}
# fields with the one value that the networks here compute
_ONLY: dict[str, bool] = {"scale_attn_weights": True, "add_cross_attention": False, "is_encoder_decoder": False}
# fields that must be empty, with the reason
_EMPTY = {
    "auto_map": "names Python code that comes with the model, which is never run; a network that needs it is not GPT-2's",
    "pruned_heads": "heads were removed from some layers, which is not supported",
    "quantization_config": "the weights are quantized already, which is not supported; take the float weights",
    "emb_norm": "GPT-2 ML normalises its embedding, so its network is not GPT-2's, which is the only one supported",
}


@dataclass(frozen=True)
class NetworkConfig:
    """A file's content. path: for messages."""

    path: Path
    content: dict[str, Any]

    def number(self, *names: str) -> int | None:
        """The whole number under the first of the names that is there; None if none is. Raises CheckpointError for others."""
        name = next((n for n in names if self.content.get(n) is not None), None)
        if name is None:
            return None
        value = self.content[name]
        if type(value) is not int or value.bit_length() > 31:
            raise CheckpointError(f"{self.path}: {name} must be a whole number, not {shown(value)}")
        return value

    def check_family(self) -> None:
        """Raise CheckpointError unless the network is a GPT-2, as far as the file says (transformers 2 did not say)."""
        family = self.content.get("model_type")
        if family is not None and family != "gpt2":
            raise CheckpointError(f"{self.path}: model_type is {shown(family)}; only gpt2 networks are supported")
        classes = self.content.get("architectures")
        if family is None and isinstance(classes, list) and classes and not any("GPT2" in str(c) for c in classes):
            raise CheckpointError(f"{self.path}: architectures is {shown(classes)}; only GPT2 networks are supported")

    def variant(self) -> NetworkVariant:
        """What the file says about the network, tied_head excepted; raises CheckpointError, naming the field, for what is unsupported."""
        for name, only in _ONLY.items():
            if self.content.get(name) not in (None, only):
                raise CheckpointError(
                    f"{self.path}: {name} is {shown(self.content[name])}; only networks with {str(only).lower()} are supported"
                )
        for name, why in _EMPTY.items():
            if self.content.get(name):
                raise CheckpointError(f"{self.path}: {name}: {why}")
        inner = self.number("n_inner")
        if inner is not None and inner < 1:
            raise CheckpointError(f"{self.path}: n_inner must be at least 1, not {inner}")
        return dataclasses.replace(
            CPM_1, inner=inner, gelu=self._gelu(), epsilon=self._epsilon(), scale_by_layer=self._scale_by_layer()
        )

    def _gelu(self) -> Any:
        function = self.content.get("activation_function")
        if function is None:
            return CPM_1.gelu
        if not isinstance(function, str) or function not in _GELU:
            raise CheckpointError(
                f"{self.path}: activation_function is {shown(function)}; supported are {', '.join(_GELU)}"
            )
        return _GELU[function]

    def _epsilon(self) -> float:
        value = self.content.get("layer_norm_epsilon")
        if value is None:
            return CPM_1.epsilon
        if type(value) not in (int, float) or not 0 < value < 1:
            raise CheckpointError(
                f"{self.path}: layer_norm_epsilon must be a number between 0 and 1, not {shown(value)}"
            )
        return float(value)

    def _scale_by_layer(self) -> bool:
        value = self.content.get("scale_attn_by_inverse_layer_idx")
        if value not in (None, False, True):
            raise CheckpointError(
                f"{self.path}: scale_attn_by_inverse_layer_idx must be true or false, not {shown(value)}"
            )
        return bool(value)

    def source(self, name: str) -> str:
        """Where the value of a field of the variant comes from, for a person."""
        return f"{name} in {CONFIG}" if self.content.get(name) is not None else f"GPT-2's, as {CONFIG} has no {name}"


def read_config(folder: Path) -> NetworkConfig | None:
    """The config.json of a folder; None if there is none. Raises CheckpointError if it holds no JSON object."""
    path = folder / CONFIG
    if not path.exists():
        return None
    text = read_small_text(path, _CONFIG_BYTES, "must hold a JSON object")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object; damaged or truncated?")
    return NetworkConfig(path, content)
