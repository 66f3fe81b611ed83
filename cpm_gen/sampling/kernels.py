"""What a network's backend may compute of its logits for the choice of tokens, more quickly than numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cpm_gen.config.options import SamplingParams
from cpm_gen.sampling.constraints import Floats32, Indices


@dataclass(frozen=True)
class Pick:
    """Draws from a row of logits without penalties, by top-k, top-p and min-p.

    row: of the logits. params: with a temperature above 0 and a top-k of at least 1, less than the number of ids that may come. allowed:
    ids that may come, ascending; None: all. bias: added to their logits; None: nothing. banned: ids that may not come. numbers: a uniform
    number for each draw.
    """

    row: int
    params: SamplingParams
    allowed: Indices | None
    bias: Floats32 | None
    banned: Indices
    numbers: Sequence[float]


class LogitKernels(Protocol):
    """Kernels on logits ``[rows, V]``, float32 on the host, contiguous. A row's results do not depend on the other rows."""

    def choose(self, logits: NDArray[np.float32], picks: Sequence[Pick]) -> list[list[int]]:
        """The tokens of each pick, as :func:`cpm_gen.sampling.sample.sample` draws them; negative where the kernels cannot draw.

        The logits hold no NaN.
        """

    def log_sums(self, logits: NDArray[np.float32]) -> list[float]:
        """The logarithm of the sum of the exponentials of each row."""
