"""Fill the torch network from a checkpoint."""

from __future__ import annotations

import torch
from torch import nn

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.errors import CheckpointError
from cpm_gen.networks.torch.layers import Matrix


def load_into(model: nn.Module, checkpoint: Checkpoint, *, rank: int, degree: int) -> None:
    """Fill every parameter of a rank's ``model`` from the shards, whatever degree they were saved at.

    Strict: a parameter without a tensor, a tensor without a parameter, or a shape that differs raises CheckpointError.
    """
    parameters = dict(model.named_parameters())
    expected = set(tensor_table.names(checkpoint.layers))
    if parameters.keys() != expected:
        odd = sorted(parameters.keys() ^ expected)[0]
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
