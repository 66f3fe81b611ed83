"""The operations of a layer over rows of tokens, as :mod:`cpm_gen.networks.cuda_graphs.triton_ops` implements them.

A row is one token. Its key and value are stored at its slot and position, and it attends to the slot's positions up to its own.
Rows have nothing else in common, so a batch, a chunk of a prompt and a part of a next window are run alike, and padding rows have
no effect on others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 16  # rows of one slot that may be attended together


@dataclass(frozen=True)
class Rows:
    """Slots and positions of rows, all on the device and int64.

    slots, positions: ``[rows]``. firsts, counts: ``[tiles]``: every row lies in one run of up to ``TILE`` rows of one slot; a count
    of 0 is no run.
    """

    slots: Tensor
    positions: Tensor
    firsts: Tensor
    counts: Tensor


class RowOps(Protocol):
    """The steps of a layer over ``[rows, …]``. ``linear`` and ``embedding`` are of :mod:`cpm_gen.networks.torch.layers`."""

    def branch(self, x: Tensor, linear: Any) -> Any:
        """``linear(x)``, for ``add_norm`` alone to read."""

    def add_norm(self, x: Tensor, branch: Any, norm: Any) -> tuple[Tensor, Tensor]:
        """``x`` plus a branch, if there is one, and the layer norm of that."""

    def project(self, x: Tensor, linear: Any, store: Tensor, rows: Rows) -> Tensor:
        """Queries ``[rows, heads, head_dim]``; keys and values go to ``store`` ``[2, slots, heads, positions, head_dim]``."""

    def attend(self, q: Tensor, store: Tensor, rows: Rows) -> Tensor:
        """Each row over its slot's positions up to its own: ``[rows, heads * head_dim]``."""

    def gelu(self, x: Tensor, linear: Any, form: str = "tanh") -> Tensor:
        """GELU of ``linear(x)``. form: "tanh" or "none", as torch calls them."""

    def head(self, x: Tensor, embedding: Any) -> Tensor:
        """Logits of the output head, fp32."""


class TorchOps:
    """:class:`RowOps` in plain torch: the reference for the kernels in tests and benchmarks. Attention copies a window per row."""

    def branch(self, x: Tensor, linear: Any) -> Any:
        """See :class:`RowOps`, here and below."""
        return linear(x)

    def add_norm(self, x: Tensor, branch: Any, norm: Any) -> tuple[Tensor, Tensor]:
        x = x if branch is None else x + branch
        return x, norm(x)

    def project(self, x: Tensor, linear: Any, store: Tensor, rows: Rows) -> Tensor:
        heads, head_dim = store.shape[2], store.shape[4]
        qkv: Tensor = linear(x).view(len(x), 3, heads, head_dim)
        store[:, rows.slots, :, rows.positions] = qkv[:, 1:]
        return qkv[:, 0]

    def attend(self, q: Tensor, store: Tensor, rows: Rows) -> Tensor:
        keys, values = store[:, rows.slots]  # [rows, heads, positions, head_dim]
        unseen = torch.arange(store.shape[3], device=q.device) > rows.positions[:, None]
        scores = (keys @ q[..., None])[..., 0].float() * q.shape[-1] ** -0.5
        weights = scores.masked_fill(unseen[:, None], -torch.inf).softmax(-1)
        # positions beyond the end of a sequence are uninitialised and may hold NaN
        values = values.masked_fill(unseen[:, None, :, None], 0)
        mixed: Tensor = weights.to(q.dtype)[..., None, :] @ values
        return mixed.flatten(1)

    def gelu(self, x: Tensor, linear: Any, form: str = "tanh") -> Tensor:
        return F.gelu(linear(x), approximate=form)

    def head(self, x: Tensor, embedding: Any) -> Tensor:
        logits: Tensor = embedding.head(x)
        return logits
