"""Small random networks, saved as checkpoints."""

from pathlib import Path

import torch

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.formats.megatron import save_checkpoint
from cpm_gen.config.model_sizes import ModelSize

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
