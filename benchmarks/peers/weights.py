"""A network's weights as a folder of ``.npy`` files (whole tensors, fp16), from which a peer's format is made.

:func:`export` needs cpm_gen and runs in its Python; reading needs only numpy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

# a layer's tensors: short name -> (name in the checkpoint)
LAYER = {
    "norm1": "input_layernorm",
    "qkv": "attention.query_key_value",
    "dense": "attention.dense",
    "norm2": "post_attention_layernorm",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}
EPSILON = 1e-5


@dataclass(frozen=True)
class Linear:
    """``y = x W^T + b`` (or a norm's scale and shift), fp32. Rows of a fused QKV weight are ``[q; k; v]``."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]


class Weights:
    """The exported folder. Every access reads from the disk and returns fp32."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.size: Any = SimpleNamespace(**json.loads((folder / "size.json").read_text()))

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return np.load(self.folder / f"{name}.npy").astype(np.float32)

    def _pair(self, name: str) -> Linear:
        return Linear(self[f"{name}.weight"], self[f"{name}.bias"])

    @property
    def words(self) -> NDArray[np.float32]:
        """``[vocabulary, hidden]``: the embedding, which is also the output head."""
        return self["word_embeddings.weight"]

    @property
    def positions(self) -> NDArray[np.float32]:
        return self["position_embeddings.weight"]

    def layer(self, n: int) -> dict[str, Linear]:
        """The tensors of one layer, by short name."""
        return {short: self._pair(f"transformer.layers.{n}.{name}") for short, name in LAYER.items()}

    @property
    def last_norm(self) -> Linear:
        return self._pair("transformer.final_layernorm")


def export(checkpoint_folder: Path, heads: int, target: Path) -> None:
    """Write the checkpoint's tensors and sizes to ``target``."""
    import dataclasses

    import torch

    from cpm_gen.checkpoints import tensor_table
    from cpm_gen.checkpoints.locate import open_checkpoint

    checkpoint = open_checkpoint(checkpoint_folder)
    target.mkdir(parents=True, exist_ok=True)
    for name in tensor_table.names(checkpoint.layers):
        tensor = torch.empty(checkpoint.shape(name), dtype=torch.float16)
        checkpoint.copy_slice(name, 0, 1, tensor)
        np.save(target / f"{name}.npy", tensor.numpy())
    (target / "size.json").write_text(json.dumps(dataclasses.asdict(checkpoint.size(heads))))
