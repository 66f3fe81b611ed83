"""Random-weight networks of CPM-1's published sizes, written as checkpoints; and the benchmarks' rows, written as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

from cpm_gen import partition
from cpm_gen.checkpoint import save_checkpoint
from cpm_gen.config import ModelSize, read_size, shipped


def random_checkpoint(folder: Path, name: str, *, degree: int = 1, dtype: torch.dtype = torch.float16) -> ModelSize:
    """Write a network of ``configs/NAME.yaml`` to ``folder``; the same weights every time."""
    size = read_size(shipped(f"{name}.yaml"))
    generator = torch.Generator().manual_seed(0)
    state = {}
    for tensor in partition.names(size.layers):
        shape = partition.whole_shape(tensor, vocabulary=size.vocabulary, positions=size.positions, hidden=size.hidden)
        if "layernorm.weight" in tensor:
            state[tensor] = torch.ones(shape, dtype=dtype)
        elif tensor.endswith("bias"):
            state[tensor] = torch.zeros(shape, dtype=dtype)
        else:
            state[tensor] = (torch.randn(shape, generator=generator) / math.sqrt(shape[-1])).to(dtype)
    save_checkpoint(folder, state, degree=degree, iteration=0)
    return size


def save(rows: list[dict[str, Any]], path: Path | None) -> None:
    """Write a benchmark's rows to ``path`` as a JSON list, if it was given."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
