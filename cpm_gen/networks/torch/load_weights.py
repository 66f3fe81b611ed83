"""Build the torch network and fill it from a checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import CheckpointError
from cpm_gen.networks.torch.layers import Matrix
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.parallel.group import TensorParallel


def load_network(
    checkpoint: Checkpoint,
    size: ModelSize,
    group: TensorParallel,
    options: ModelOptions,
    device: torch.device,
    threads: int,
) -> TorchModel:
    """See :class:`cpm_gen.networks.interface.Backend`; ``threads`` is torch's own setting."""
    dtype = getattr(torch, options.dtype)
    quantized = options.quantize == "int8"
    model = TorchModel(size, group, checkpoint.variant, dtype=dtype, device=device, quantized=quantized)
    load_into(model, checkpoint, rank=group.rank, degree=group.size)
    return model


def load_into(model: nn.Module, checkpoint: Checkpoint, *, rank: int, degree: int) -> None:
    """Fill every parameter of a rank's ``model``, whatever degree the checkpoint was saved for.

    Raises CheckpointError for a parameter without a tensor, a tensor without a parameter, or a shape that differs.
    """
    parameters = dict(model.named_parameters())
    if parameters.keys() != checkpoint.tensors.keys():
        odd = sorted(parameters.keys() ^ checkpoint.tensors.keys())[0]
        raise CheckpointError(f"{checkpoint.folder}: network and checkpoint do not have the same tensors ({odd})")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if tuple(parameter.shape) != checkpoint.slice_shape(name, degree):
                raise CheckpointError(
                    f"{checkpoint.folder}: {name} is {list(parameter.shape)} in the network, "
                    f"{list(checkpoint.slice_shape(name, degree))} in the checkpoint"
                )
            if parameter.dtype != torch.int8:
                checkpoint.copy_slice(name, rank, degree, parameter.data)
                continue
            matrix = model.get_submodule(name.removesuffix(".weight"))
            assert isinstance(matrix, Matrix)
            values = torch.empty(parameter.shape, device=parameter.device)
            checkpoint.copy_slice(name, rank, degree, values)
            matrix.quantize(values)
