"""Runs the network on all ranks. Rank 0 decides; the other ranks follow its plans.

A plan is a short list of integers: the operation, and for each segment its slot, position, whether its logits are wanted, and
its ids; or the slots to copy. Only new ids are sent, never the history. Every rank then makes the same call on its part of the
network, whose head gathers the logits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from cpm_gen.errors import NumericsError, RankError
from cpm_gen.networks.interface import Network, Segment, SlotCopy
from cpm_gen.sampling.logprobs import TopCollector

_EXIT, _NEXT, _SCORE, _COPY = range(4)
MAX_TOKENS = 4096  # tokens in one pass of the network; bounds its activations
SCORINGS = 4  # scoring slots where the network makes use of them: texts scored in parts at the same time


class ModelRunner:
    """A rank's network and KV cache.

    slots: windows of the cache for the scheduler; 0: no cache. scoring_slots: further windows for scoring in parts while sequences
    run. Public: ``network``, ``cache``, and ``scoring_slots`` as the range of their indices.
    """

    def __init__(self, network: Network[Any], slots: int, scoring_slots: int = 0) -> None:
        self.network = network
        self._halfway = False
        self.scoring_slots = range(slots, slots + scoring_slots)
        self.cache = network.make_cache(self.scoring_slots.stop) if self.scoring_slots.stop else None

    def next_logits(self, segments: Sequence[Segment]) -> Tensor:
        """Rank 0: logits ``[wanted, vocabulary]``, float32 on the network's device, after each segment that wants them."""
        parts = []
        for batch in _batches(segments):
            with self._plan([_NEXT, *_pack(batch)]):
                parts.append(self.network.next_logits(batch, self.cache))
        # a copy by torch would wake its thread pool, which then spins for milliseconds on the native kernels' cores
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def score(self, segment: Segment, targets: Sequence[int], top: TopCollector | None = None) -> list[float]:
        """Rank 0: natural log-probability of each target (see :meth:`cpm_gen.networks.interface.Network.score`).

        Raises NumericsError for logits that are not finite.
        """
        plan = [_SCORE, len(targets), *targets, *_pack([segment])]
        with self._plan(plan):
            result = self.network.score(segment, targets, self.cache, top)
        if not bool(torch.isfinite(result).all()):
            raise NumericsError(
                "the network's logits are NaN or infinite: the checkpoint is damaged, or float16 overflowed"
            )
        scores: list[float] = result.tolist()
        return scores

    def copy_slots(self, copies: Sequence[SlotCopy]) -> None:
        """Rank 0: copy keys and values between slots, on all ranks."""
        if copies:
            with self._plan([_COPY, *(word for copy in copies for word in copy)]):
                self._copy(copies)

    def _copy(self, copies: Iterable[SlotCopy]) -> None:
        for copy in copies:
            self.network.copy_slot(self.cache, *copy)

    @contextlib.contextmanager
    def _plan(self, words: list[int]) -> Iterator[None]:
        """Send a plan and run it. If that is interrupted, the ranks disagree about the next operation, and RankError follows."""
        if self._halfway and self.network.group.size > 1:
            raise RankError("a step was interrupted halfway, so the ranks are out of step; load the model again")
        self._halfway = True
        self.network.group.broadcast_plan(words)
        yield
        self._halfway = False

    def follow(self) -> None:
        """Other ranks: run rank 0's plans until it sends the end."""
        while (plan := self.network.group.broadcast_plan(None))[0] != _EXIT:
            if plan[0] == _NEXT:
                self.network.next_logits(list(_unpack(plan, 1)), self.cache)
            elif plan[0] == _COPY:
                self._copy(SlotCopy(*plan[at : at + 3]) for at in range(1, len(plan), 3))
            else:
                count = plan[1]
                (segment,) = _unpack(plan, 2 + count)
                self.network.score(segment, plan[2 : 2 + count], self.cache)

    def close(self) -> None:
        """Rank 0: end the other ranks' :meth:`follow`."""
        if self.network.group.size > 1 and not self._halfway:
            self.network.group.broadcast_plan([_EXIT])


def _batches(segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    batch: list[Segment] = []
    tokens = 0
    for segment in segments:
        if batch and tokens + len(segment.ids) > MAX_TOKENS:
            yield batch
            batch, tokens = [], 0
        batch.append(segment)
        tokens += len(segment.ids)
    yield batch


def _pack(segments: Sequence[Segment]) -> list[int]:
    words = []
    for s in segments:
        words += [-1 if s.slot is None else s.slot, s.start, int(s.logits), len(s.ids), *s.ids]
    return words


def _unpack(words: Sequence[int], at: int) -> Iterator[Segment]:
    while at < len(words):
        slot, start, logits, count = words[at : at + 4]
        yield Segment(words[at + 4 : at + 4 + count], start, None if slot < 0 else slot, bool(logits))
        at += 4 + count
