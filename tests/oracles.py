"""Slow or plain versions of what the package does, for comparison in tests."""

import torch

from cpm_gen.checkpoints.tensor_table import Cut, pieces


def merge(cut: Cut, parts: list[torch.Tensor]) -> torch.Tensor:
    """The inverse of :func:`cpm_gen.checkpoints.tensor_table.split`; of a copied tensor, the first rank's."""
    if cut.dim is None:
        return parts[0].clone()
    size = sum(p.shape[cut.dim] for p in parts)
    return torch.cat(
        [parts[p.source].narrow(cut.dim, p.source_start, p.length) for p in pieces(cut, size, len(parts), 1, 0)],
        dim=cut.dim,
    )
