"""The tensor-parallel group: an object that is passed in, not a global.

:class:`TensorParallel` hides what transports the data: nothing (one rank), ``torch.distributed`` (local ranks, torchrun) or
``deepspeed.comm`` (the deepspeed launcher). Tensors go over NCCL on GPUs and gloo on CPUs. The small integer plans of every step
always go over gloo, because a rank that waits there sleeps instead of spinning and may wait for days.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cpm_gen.errors import RankError

CONNECT = datetime.timedelta(minutes=5)  # limit for connecting and for a collective
IDLE = datetime.timedelta(days=365)  # limit for the next plan: a session may be idle
_PLAN_WORDS = 256  # a plan up to this length is one message


class TensorParallel:
    """One rank's place in its group. With ``size`` 1 every operation returns its input without communication.

    seconds: time spent in the collectives so far; on a GPU, in launching them.
    """

    def __init__(self, rank: int = 0, size: int = 1, comm: Any = None, plans: Any = None) -> None:
        self.rank = rank
        self.size = size
        self.seconds = 0.0
        self._comm = comm
        self._plans = plans

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - began

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum of ``x`` over the ranks, in place."""
        if self.size > 1:
            with self._timed():
                self._comm.all_reduce(x)
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """Every rank's ``x`` ``[..., n]`` concatenated in rank order: ``[..., n * size]``."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        with self._timed():
            self._comm.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim=-1)

    def broadcast_plan(self, words: list[int] | None) -> list[int]:
        """Rank 0's integers, on every rank; the other ranks pass None and wait."""
        if self.size == 1:
            assert words is not None
            return words
        head = torch.zeros(_PLAN_WORDS, dtype=torch.int64)
        if words is not None:
            head[0] = len(words)
            first = words[: _PLAN_WORDS - 1]
            head[1 : 1 + len(first)] = torch.tensor(first, dtype=torch.int64)
        with self._timed():
            torch.distributed.broadcast(head, 0, group=self._plans)
        length = int(head[0])
        if length < _PLAN_WORDS:
            return head[1 : 1 + length].tolist()
        rest = torch.zeros(length, dtype=torch.int64) if words is None else torch.tensor(words, dtype=torch.int64)
        torch.distributed.broadcast(rest, 0, group=self._plans)
        return rest.tolist()

    def barrier(self) -> None:
        """Wait for all ranks without a time limit; raises RuntimeError if one is gone."""
        if self.size > 1:
            torch.distributed.barrier(group=self._plans)

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1 and torch.distributed.is_initialized():
            with contextlib.suppress(RuntimeError):  # a peer may be gone already
                torch.distributed.destroy_process_group()


def connect(rank: int, size: int, comm: Any) -> TensorParallel:
    """The group of ranks that have initialised ``torch.distributed``, with a second gloo group for plans; raises RankError."""
    try:
        plans = torch.distributed.new_group(backend="gloo", timeout=IDLE)
    except RuntimeError as error:
        torch.distributed.destroy_process_group()
        raise RankError(f"the ranks could not connect: {error}") from error
    return TensorParallel(rank, size, comm, plans)
