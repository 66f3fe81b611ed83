"""What a backend must offer: segments of tokens in, logits out.

The engine knows a network only through :class:`Network`. To add a backend, write one, write a :class:`Backend` function that
builds and loads it, and name it in :mod:`cpm_gen.networks.select`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import ModelOptions
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.sampling.kernels import LogitKernels
from cpm_gen.sampling.logprobs import TopCollector

_HEAD_ROWS = 128  # rows that meet the output head at once while scoring; bounds the logits in memory


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one sequence, run in one pass of the network.

    ids: the tokens to run, at least one.
    start: position of the first; positions ``0 .. start - 1`` are in the cache.
    slot: where keys and values are stored; None: run without a cache (``start`` is then 0).
    logits: whether the next token's logits are wanted; False: the segment only fills its slot.
    """

    ids: Sequence[int]
    start: int = 0
    slot: int | None = None
    logits: bool = True


class SlotCopy(NamedTuple):
    """The first ``tokens`` positions of slot ``source``, to be copied to slot ``target``."""

    source: int
    target: int
    tokens: int


class Cache(Protocol):
    """Keys and values of whole windows, of this rank's heads. Only the backend that made it reads it."""

    @property
    def slots(self) -> int:
        """Number of windows."""


CacheT = TypeVar("CacheT", bound=Cache)


class Network(Protocol[CacheT]):
    """One rank's part of a loaded network. All ranks make the same calls in the same order.

    group: the ranks; collectives happen inside the methods below.
    samples: True: logits stay on the network's device and tokens are chosen there; False: logits are on the host.
    """

    group: TensorParallel
    samples: bool

    @property
    def logit_kernels(self) -> LogitKernels | None:
        """What the backend computes of logits on the host; None: nothing."""

    def make_cache(self, slots: int) -> CacheT:
        """A cache of ``slots`` windows of all positions; raises MemoryError or torch's OutOfMemoryError."""

    def copy_slot(self, cache: CacheT, source: int, target: int, tokens: int) -> None:
        """Make slot ``target`` hold the first ``tokens`` positions of slot ``source``, another one."""

    def next_logits(self, segments: Sequence[Segment], cache: CacheT | None) -> Tensor:
        """Logits ``[wanted, vocabulary]``, float32, after the last token of each segment that wants them, in order."""

    def score(
        self, segment: Segment, targets: Sequence[int], cache: CacheT | None, top: TopCollector | None = None
    ) -> Tensor:
        """Natural log-probabilities ``[targets]``, float32, of each target after one of the segment's last tokens.

        The last ``len(targets)`` tokens of the segment are scored, in order; without targets the segment only fills its slot.
        top: gets the most probable tokens in the place of each target.
        """

    def profile(self) -> dict[str, float]:
        """Seconds spent since loading, by purpose, as far as the network can tell; empty if it cannot."""


class Backend(Protocol):
    """Builds one rank's network and loads its slices of the weights."""

    def __call__(
        self,
        checkpoint: Checkpoint,
        size: ModelSize,
        group: TensorParallel,
        options: ModelOptions,
        device: torch.device,
        threads: int,
    ) -> Network[Any]:
        """Raises CheckpointError if tensors do not fit, MemoryError (or torch's error) if memory does not suffice."""


def score_targets(
    hidden: Any, targets: Sequence[int], head: Callable[[Any], Tensor], top: TopCollector | None = None
) -> Tensor:
    """Natural log-probability of each target, float32 ``[targets]``: the loop behind every :meth:`Network.score`.

    hidden: final hidden states ``[targets, hidden]``. head: logits ``[rows, vocabulary]`` of such rows, gathered from all ranks.
    top: gets the most probable tokens in the place of each target.
    """
    parts = []
    for at in range(0, len(targets), _HEAD_ROWS):
        logits = head(hidden[at : at + _HEAD_ROWS])
        wanted = torch.tensor(targets[at : at + _HEAD_ROWS], device=logits.device)
        totals = logits.logsumexp(1)
        parts.append(logits.gather(1, wanted[:, None])[:, 0] - totals)
        if top is not None:
            top.add(logits, totals)
    return torch.cat(parts) if parts else torch.empty(0)
