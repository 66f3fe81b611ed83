"""Runs the network on all ranks. Rank 0 decides; the others follow its plans.

A plan is a short list of integers: what to do, and for each segment its slot, position, ids, and whether its logits are wanted.
Only new ids travel, never the history. Every rank then makes the same call on its part of the network; logits come together in
the network's head.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from cpm_gen.errors import NumericsError, RankError
from cpm_gen.networks.interface import Network, Segment

_EXIT, _NEXT, _SCORE = range(3)
MAX_TOKENS = 4096  # in one pass of the network; bounds its activations
SCORINGS = 4  # that are encoded in parts side by side


class Runner:
    """A rank's network and cache. ``slots`` 0 makes no cache.

    scoring_slots: further ones, where unused memory is not taken: a GPU encodes a whole window as fast as a CPU a part of one.
    """

    def __init__(self, model: Network, slots: int) -> None:
        self.model = model
        self._halfway = False
        self.scoring_slots = range(slots, slots + SCORINGS) if slots and not model.samples else range(0)
        self.cache = model.make_cache(slots + len(self.scoring_slots)) if slots else None

    def next_logits(self, segments: Sequence[Segment]) -> Tensor:
        """Rank 0: logits ``[wanted, vocabulary]`` (fp32, on the network's device) after each segment that wants them."""
        parts = []
        for batch in _batches(segments):
            with self._plan([_NEXT, *_pack(batch)]):
                parts.append(self.model.next_logits(batch, self.cache))
        # a copy by torch would wake its threads, which spin on for milliseconds where the native kernels' are to work
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def score(self, segment: Segment, targets: Sequence[int]) -> list[float]:
        """Rank 0: natural log-probability of each target (see :meth:`cpm_gen.networks.torch.model.Model.score`)."""
        plan = [_SCORE, len(targets), *targets, *_pack([segment])]
        with self._plan(plan):
            result = self.model.score(segment, targets, self.cache)
        if not bool(torch.isfinite(result).all()):
            raise NumericsError(
                "the network's logits are NaN or infinite: the checkpoint is damaged, or float16 overflowed"
            )
        scores: list[float] = result.tolist()
        return scores

    @contextlib.contextmanager
    def _plan(self, words: list[int]) -> Iterator[None]:
        """Send a plan and carry it out. Interrupted halfway, the ranks no longer agree what comes next: nothing runs again."""
        if self._halfway and self.model.group.size > 1:
            raise RankError("a step was interrupted halfway, so the ranks are out of step; load the model again")
        self._halfway = True
        self.model.group.broadcast_plan(words)
        yield
        self._halfway = False

    def follow(self) -> None:
        """Other ranks: carry out rank 0's plans until it says to end."""
        while (plan := self.model.group.broadcast_plan(None))[0] != _EXIT:
            if plan[0] == _NEXT:
                self.model.next_logits(list(_unpack(plan, 1)), self.cache)
            else:
                count = plan[1]
                (segment,) = _unpack(plan, 2 + count)
                self.model.score(segment, plan[2 : 2 + count], self.cache)

    def close(self) -> None:
        """Rank 0: let the others end."""
        if self.model.group.size > 1 and not self._halfway:
            self.model.group.broadcast_plan([_EXIT])


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
