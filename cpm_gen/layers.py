"""Tensor-parallel layers. Every collective stands in a ``forward``; a row-parallel bias is added once, after the reduce.

Parameters are created empty; :func:`cpm_gen.checkpoint.load_into` fills them with this rank's slices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cpm_gen.parallel import TensorParallel


@dataclass(frozen=True)
class Place:
    """Where a rank's parameters live, and whose part they are."""

    group: TensorParallel
    dtype: torch.dtype
    device: torch.device

    def empty(self, *shape: int) -> nn.Parameter:
        """A parameter to be filled."""
        return nn.Parameter(torch.empty(shape, dtype=self.dtype, device=self.device), requires_grad=False)


class _Linear(nn.Module):
    def __init__(self, inputs: int, outputs: int, place: Place) -> None:
        super().__init__()
        self.group = place.group
        self.weight = place.empty(outputs, inputs)


class ColumnParallelLinear(_Linear):
    """``y = x W^T + b`` with the rows of W (the columns of W^T) over the ranks: ``[n, inputs] -> [n, outputs / p]``."""

    def __init__(self, inputs: int, outputs: int, place: Place) -> None:
        super().__init__(inputs, outputs // place.group.size, place)
        self.bias = place.empty(outputs // place.group.size)

    def forward(self, x: Tensor) -> Tensor:
        """No communication: each rank keeps its own outputs."""
        return F.linear(x, self.weight, self.bias)


class RowParallelLinear(_Linear):
    """``y = x W^T + b`` with the columns of W over the ranks: ``[n, inputs / p] -> [n, outputs]``, the same on all."""

    def __init__(self, inputs: int, outputs: int, place: Place) -> None:
        super().__init__(inputs // place.group.size, outputs, place)
        self.bias = place.empty(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """One all-reduce, then the bias."""
        if self.group.size == 1:
            return F.linear(x, self.weight, self.bias)
        return self.group.all_reduce(F.linear(x, self.weight)) + self.bias


class VocabularyParallelEmbedding(nn.Module):
    """The word embedding, its rows over the ranks; also the tied output head."""

    def __init__(self, vocabulary: int, hidden: int, place: Place) -> None:
        super().__init__()
        self.group = place.group
        self.weight = place.empty(vocabulary // place.group.size, hidden)

    def forward(self, ids: Tensor) -> Tensor:
        """``[n] -> [n, hidden]``: each rank looks up the rows it holds, zero elsewhere, then one all-reduce."""
        if self.group.size == 1:
            return F.embedding(ids, self.weight)
        rows = self.weight.shape[0]
        local = ids - self.group.rank * rows
        mine = (local >= 0) & (local < rows)
        return self.group.all_reduce(F.embedding(local.where(mine, 0), self.weight) * mine[:, None])

    def head(self, x: Tensor) -> Tensor:
        """``[n, hidden] -> [n, vocabulary]`` logits, fp32, gathered from all ranks."""
        return self.group.all_gather(F.linear(x, self.weight).float())


class PositionEmbedding(nn.Module):
    """The learned absolute positions, whole on every rank."""

    def __init__(self, positions: int, hidden: int, place: Place) -> None:
        super().__init__()
        self.weight = place.empty(positions, hidden)

    def forward(self, positions: Tensor) -> Tensor:
        """``[n] -> [n, hidden]``."""
        return F.embedding(positions, self.weight)


def layer_norm(hidden: int, place: Place) -> nn.Module:
    """LayerNorm with CPM's eps; apex's fused kernel where it is installed and the device is a GPU."""
    if place.device.type == "cuda":
        try:
            from apex.normalization import FusedLayerNorm
        except ImportError:
            pass
        else:
            fused: nn.Module = FusedLayerNorm(hidden, eps=1e-5).to(place.device, place.dtype)
            return fused
    return nn.LayerNorm(hidden, eps=1e-5, device=place.device, dtype=place.dtype)
