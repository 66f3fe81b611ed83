"""Small random networks, saved as checkpoints."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.formats.megatron import save_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import ModelOptions
from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.runtime.build import build_runner
from cpm_gen.runtime.plan import Machine, plan_load

SMALL = ModelSize(layers=2, hidden=32, heads=8, vocabulary=120, positions=16)


def random_state(size: ModelSize = SMALL, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A whole network with weights large enough that greedy text varies, biases and norms not trivial."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name in tensor_table.names(size.layers):
        shape = tensor_table.whole_shape(name, vocabulary=size.vocabulary, positions=size.positions, hidden=size.hidden)
        values = torch.randn(shape, generator=generator) * (0.1 if name.endswith("bias") else 0.25)
        if "layernorm.weight" in name:
            values = 1 + values
        state[name] = values.to(dtype)
    return state


def random_checkpoint(
    folder: Path,
    size: ModelSize = SMALL,
    *,
    degree: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    iteration: int = 7,
) -> Path:
    """Write a random network to ``folder``, with its heads in config.json."""
    save_checkpoint(folder, random_state(size, seed, dtype), degree=degree, iteration=iteration)
    (folder / "config.json").write_text(f'{{"heads": {size.heads}}}\n')
    return folder


def load_runner(folder: Path, *, slots: int, threads: int = 1, **options: Any) -> ModelRunner:
    """A runner of one rank with that many slots, as a load with these options would build it."""
    plan = plan_load(ModelOptions(model=str(folder), **options), Machine.detect())
    rank = dataclasses.replace(plan.for_rank(0), slots=slots, threads=threads)
    return build_runner(rank, plan.checkpoint, TensorParallel())
