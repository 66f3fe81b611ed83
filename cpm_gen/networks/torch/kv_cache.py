"""The KV cache of the torch network: fixed slots of one full window each.

A slot holds keys and values of ``positions`` tokens for every layer. For the 2.6 B network in fp16 that is 320 MiB, so slots
need no paging.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """``slots`` windows of keys and values, ``[layers, 2, slots, heads, positions, head_dim]`` of this rank's heads."""

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        heads: int,
        positions: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.slots = slots
        self.store = torch.empty(layers, 2, slots, heads, positions, head_dim, dtype=dtype, device=device)

    def extend(self, layer: int, slot: int, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values ``[heads, n, head_dim]`` from position ``start`` on; return ``[heads, start + n, head_dim]`` of both."""
        end = start + keys.shape[1]
        store = self.store[layer, :, slot]
        store[0, :, start:end] = keys
        store[1, :, start:end] = values
        return store[0, :, :end], store[1, :, :end]

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first ``tokens`` positions of slot ``source`` to slot ``target``."""
        self.store[:, :, target, :, :tokens] = self.store[:, :, source, :, :tokens]
