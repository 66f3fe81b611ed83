"""Tensor-parallel layers. Every collective is in a ``forward``; a row-parallel bias is added once, after the reduce.

Parameters are created uninitialised; :func:`cpm_gen.networks.torch.load_weights.load_into` fills them with this rank's slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpm_gen.parallel.group import TensorParallel


@dataclass(frozen=True)
class Place:
    """Device, dtype and group of a rank's parameters."""

    group: TensorParallel
    dtype: torch.dtype  # of activations, and of parameters
    device: torch.device
    quantized: bool = False  # matrices in 8 bits

    def empty(self, *shape: int) -> nn.Parameter:
        """An uninitialised parameter."""
        return nn.Parameter(torch.empty(shape, dtype=self.dtype, device=self.device), requires_grad=False)


class Matrix(nn.Module):
    """A rank's part of a matrix, ``[rows, columns]``; quantized: int8 with a scale (fp32) for each row, else ``scale`` is None."""

    scale: Tensor | None

    def __init__(self, rows: int, columns: int, place: Place) -> None:
        super().__init__()
        self.group = place.group
        self.dtype = place.dtype
        if place.quantized:
            weight = torch.empty(rows, columns, dtype=torch.int8, device=place.device)
            self.weight = nn.Parameter(weight, requires_grad=False)
        else:
            self.weight = place.empty(rows, columns)
        scale = torch.empty(rows, device=place.device) if place.quantized else None
        self.register_buffer("scale", scale, persistent=False)

    @torch.no_grad()
    def quantize(self, values: Tensor) -> None:
        """Fill from floats of the same shape: each row in 255 symmetric steps, scaled to its largest absolute value."""
        assert self.scale is not None
        self.scale.copy_(values.abs().amax(1) / 127)
        steps = torch.where(self.scale > 0, self.scale, 1.0)[:, None]
        self.weight.copy_((values / steps).round_())

    def whole(self) -> Tensor:
        """The matrix ``[rows, columns]`` in the activations' dtype."""
        if self.scale is None:
            return self.weight
        # one kernel that reads bytes and writes halves
        whole = torch.empty(self.weight.shape, dtype=self.dtype, device=self.weight.device)
        return torch.mul(self.weight, self.scale[:, None], out=whole)


class ColumnParallelLinear(Matrix):
    """``y = x W^T + b`` with the rows of W (the columns of W^T) over the ranks: ``[n, inputs] -> [n, outputs / p]``."""

    def __init__(self, inputs: int, outputs: int, place: Place) -> None:
        super().__init__(outputs // place.group.size, inputs, place)
        self.bias = place.empty(outputs // place.group.size)

    def forward(self, x: Tensor) -> Tensor:
        """No communication: each rank keeps its own outputs."""
        return F.linear(x, self.whole(), self.bias)


class RowParallelLinear(Matrix):
    """``y = x W^T + b`` with the columns of W over the ranks: ``[n, inputs / p] -> [n, outputs]``, the same on all."""

    def __init__(self, inputs: int, outputs: int, place: Place) -> None:
        super().__init__(outputs, inputs // place.group.size, place)
        self.bias = place.empty(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """One all-reduce, then the bias."""
        if self.group.size == 1:
            return F.linear(x, self.whole(), self.bias)
        return self.group.all_reduce(F.linear(x, self.whole())) + self.bias


class VocabularyParallelEmbedding(Matrix):
    """The word embedding, its rows over the ranks; also the output head. All ranks hold the same number of rows, the last padded."""

    def __init__(self, vocabulary: int, hidden: int, place: Place) -> None:
        super().__init__(-(-vocabulary // place.group.size), hidden, place)
        self.vocabulary = vocabulary

    def forward(self, ids: Tensor) -> Tensor:
        """``[n] -> [n, hidden]``: each rank looks up the rows it holds, zero elsewhere, then one all-reduce."""
        if self.group.size == 1:
            return self._rows(ids)
        rows = self.weight.shape[0]
        local = ids - self.group.rank * rows
        mine = (local >= 0) & (local < rows)
        return self.group.all_reduce(self._rows(local.where(mine, 0)) * mine[:, None])

    def _rows(self, ids: Tensor) -> Tensor:
        rows = F.embedding(ids, self.weight)
        return rows if self.scale is None else (rows * self.scale[ids][:, None]).to(self.dtype)

    def head(self, x: Tensor) -> Tensor:
        """``[n, hidden] -> [n, vocabulary]`` logits, fp32, gathered from all ranks; those of padding rows are left out."""
        return self.group.all_gather(F.linear(x, self.whole()).float())[:, : self.vocabulary].contiguous()


class PositionEmbedding(nn.Module):
    """The learned absolute positions, whole on every rank."""

    def __init__(self, positions: int, hidden: int, place: Place) -> None:
        super().__init__()
        self.weight = place.empty(positions, hidden)

    def forward(self, positions: Tensor) -> Tensor:
        """``[n] -> [n, hidden]``."""
        return F.embedding(positions, self.weight)


def layer_norm(hidden: int, place: Place, epsilon: float) -> nn.Module:
    """LayerNorm; apex's fused kernel where it is installed and the device is a GPU."""
    if place.device.type == "cuda":
        try:
            from apex.normalization import FusedLayerNorm
        except ImportError:
            pass
        else:
            fused: nn.Module = FusedLayerNorm(hidden, eps=epsilon).to(place.device, place.dtype)
            return fused
    return nn.LayerNorm(hidden, eps=epsilon, device=place.device, dtype=place.dtype)
