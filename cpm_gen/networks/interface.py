"""What a backend is: segments of tokens in, logits out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from cpm_gen.parallel.group import TensorParallel


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one sequence.

    ids: the tokens to run.
    start: position of the first; positions ``0 .. start - 1`` are in the cache.
    slot: where keys and values go; None runs without a cache (``start`` is then 0).
    logits: whether the next token's logits are wanted; without, the segment only fills its slot.
    """

    ids: Sequence[int]
    start: int = 0
    slot: int | None = None
    logits: bool = True


class Network(Protocol):
    """One rank's part of the network, on any backend."""

    group: TensorParallel
    samples: bool  # whether tokens are chosen on its device; else on the host

    def make_cache(self, slots: int) -> Any:
        """A cache of ``slots`` full windows."""

    def next_logits(self, segments: Sequence[Segment], cache: Any) -> Tensor:
        """Logits ``[wanted, vocabulary]`` after each segment that wants them."""

    def score(self, segment: Segment, targets: Sequence[int], cache: Any) -> Tensor:
        """Natural log-probabilities ``[targets]``."""

    def profile(self) -> dict[str, float]:
        """Seconds spent so far by what they were for, as far as the network can tell."""
