"""Slow or plain versions of what the package does, for comparison in tests."""

import numpy as np
import torch

from cpm_gen.checkpoints.tensor_table import Cut, pieces
from cpm_gen.config.options import SamplingParams
from cpm_gen.sampling import sample
from cpm_gen.sampling.penalties import AnyFloats, Floats


def merge(cut: Cut, parts: list[torch.Tensor]) -> torch.Tensor:
    """The inverse of :func:`cpm_gen.checkpoints.tensor_table.split`; of a copied tensor, the first rank's."""
    if cut.dim is None:
        return parts[0].clone()
    size = sum(p.shape[cut.dim] for p in parts)
    return torch.cat(
        [parts[p.source].narrow(cut.dim, p.source_start, p.length) for p in pieces(cut, size, len(parts), 1, 0)],
        dim=cut.dim,
    )


@np.errstate(over="ignore", under="ignore")
def distribution(logits: AnyFloats, params: SamplingParams) -> Floats:
    """Probabilities ``[V]`` after temperature, top-k, top-p and min-p; they sum to 1.

    Ties with the k-th token stay, as in the original and Hugging Face; of equal ones at the edge of top-p, the lowest ids.
    ``temperature`` 0 puts all on the best token (the lowest id among equals). Raises NumericsError as ``sample`` does.
    """
    result = np.zeros(len(logits))
    ids, weights = sample.remaining(logits, sample.best_token(logits), params)
    result[ids] = weights / weights.sum()
    return result
