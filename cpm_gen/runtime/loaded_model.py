"""A network loaded on all its ranks: the ranks start together and end together."""

from __future__ import annotations

import contextlib
import hashlib
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpm_gen.checkpoints.checkpoint import verify_replicas
from cpm_gen.checkpoints.checksums import VerifyBeside
from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.errors import CpmGenError, RankError
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.parallel.launchers import join_launched
from cpm_gen.parallel.local_ranks import LocalRanks, join_local
from cpm_gen.runtime import rank_worker
from cpm_gen.runtime.build import build_runner
from cpm_gen.runtime.plan import LoadPlan
from cpm_gen.runtime.rank_worker import Assignment

_SAMPLES, _SAMPLE_BYTES = 64, 4096  # of each file, how many samples the digest reads, and their length


def digest(files: Iterable[Path]) -> str:
    """A hash of samples of the files and their lengths: tells a checkpoint's weights from others of the same shape."""
    found = hashlib.sha256()
    for path in files:
        data = np.memmap(path, np.uint8, "r")
        found.update(len(data).to_bytes(8, "little"))
        for at in range(0, len(data), max(_SAMPLE_BYTES, len(data) // _SAMPLES)):
            found.update(data[at : at + _SAMPLE_BYTES].tobytes())
    return found.hexdigest()[:16]


class LoadedModel:
    """This process's part of a loaded network, the ranks that it started, and its CPU threads.

    plan: what was loaded. runner: runs the network on all ranks. group: this rank's place.
    """

    def __init__(
        self, plan: LoadPlan, runner: ModelRunner, group: TensorParallel, ranks: LocalRanks | None, threads: _CpuThreads
    ) -> None:
        """Use :meth:`start`."""
        self.plan = plan
        self.runner = runner
        self.group = group
        self._ranks = ranks
        self._threads = threads
        self._closed = False
        self._process = os.getpid()
        self._finish: weakref.finalize[Any, Any] = weakref.finalize(
            self, _end_group, runner, group, ranks, self._process
        )

    @staticmethod
    def start(plan: LoadPlan, on_rank_death: Callable[[str], None] | None = None) -> LoadedModel:
        """Start or join the other ranks and load the weights on all of them.

        on_rank_death: see :class:`cpm_gen.parallel.local_ranks.LocalRanks`. Raises CheckpointError if the tensors are
        inconsistent or differ from their checksums, RankError if a rank cannot start or load, MemoryError (or torch's error)
        if memory does not suffice.
        """
        verify_replicas(plan.checkpoint)
        threads = _CpuThreads(plan.threads)
        threads.take()
        group, ranks = TensorParallel(), None
        try:
            if plan.launch:
                group = join_launched(plan.launch, plan.device)
            elif plan.degree > 1:
                ranks = _start_ranks(plan, on_rank_death)
                group = join_local(0, plan.degree, plan.device, ranks.folder)
            first_here = plan.launch is None or plan.launch.local_rank == 0
            with VerifyBeside(plan.checkpoint.checksums if first_here else ()):
                runner = build_runner(plan.for_rank(plan.rank), plan.checkpoint, group)
            return LoadedModel(plan, runner, group, ranks, threads)
        except BaseException as error:
            explained = _explain(error, group, ranks) if isinstance(error, RuntimeError) else error
            threads.restore()
            _abandon(group, ranks)
            if explained is error:
                raise
            raise explained from error

    @property
    def rank(self) -> int:
        """This process's rank; only rank 0 writes, the others :meth:`follow`."""
        return self.group.rank

    def digest(self) -> str:
        """The :func:`digest` of the weights in their files now."""
        return digest(self.plan.checkpoint.files)

    def follow(self) -> None:
        """On ranks other than 0: work for rank 0 until it closes."""
        with self.rank_errors():
            self.runner.follow()

    @contextlib.contextmanager
    def rank_errors(self) -> Iterator[None]:
        """Turn an error of the network into RankError if a dead rank is its cause; the model is then closed."""
        try:
            yield
        except RuntimeError as error:
            explained = _explain(error, self.group, self._ranks)
            if explained is error:
                raise
            self.abandon()
            raise explained from error

    def check_open(self) -> None:
        """Raise CpmGenError if the model was closed, if a fork copied it, or if this is not rank 0."""
        if os.getpid() != self._process:
            raise CpmGenError(
                "this model was loaded before the process forked, and its threads exist in the parent only; "
                "load it after forking (gunicorn: without --preload; multiprocessing: in the child, or with 'spawn')"
            )
        if self._closed:
            raise CpmGenError("this model was closed; load it again")
        if self.rank:
            raise CpmGenError(f"this is rank {self.rank}, which follows rank 0; only that one writes")

    def close(self) -> None:
        """End the other ranks and leave the group. Idempotent. Happens automatically when the program ends."""
        if not self._closed and os.getpid() == self._process:
            self._closed = True
            self._finish()
            self._threads.restore()

    def abandon(self) -> None:
        """Leave the group without telling the other ranks, and kill those this process started: one is dead or stuck."""
        self._closed = True
        self._finish.detach()
        self._threads.restore()
        _abandon(self.group, self._ranks)

    def kill_ranks(self) -> bool:
        """Kill the ranks that this process started; a step that waits for them then fails. False if there are none.

        Safe to call from any thread.
        """
        if self._ranks:
            self._ranks.kill()
        return self._ranks is not None


class _CpuThreads:
    """torch's number of CPU threads, which is one for the process: taken by a model and restored after it."""

    def __init__(self, count: int) -> None:
        self._before, self._count = torch.get_num_threads(), count

    def take(self) -> None:
        torch.set_num_threads(self._count)

    def restore(self) -> None:
        if torch.get_num_threads() == self._count:
            torch.set_num_threads(self._before)


def _start_ranks(plan: LoadPlan, on_death: Callable[[str], None] | None) -> LocalRanks:
    def assignment(rank: int, folder: str, ready: int) -> str:
        return Assignment(rank, plan.degree, folder, os.getpid(), ready, plan.for_rank(rank)).to_json()

    return LocalRanks(plan.degree, rank_worker.__name__, assignment, on_death)


def _explain(error: RuntimeError, group: TensorParallel, ranks: LocalRanks | None) -> RuntimeError | RankError:
    """RankError if a dead rank is the cause; otherwise the error itself."""
    failure = ranks.failure(wait=3.0) if ranks else None
    if failure is None and (group.size == 1 or not _lost_connection(error)):
        return error
    lost = (
        f"rank {group.rank} lost another rank: that rank ended and says why, or the network between the machines failed"
    )
    return RankError(failure or lost)


def _lost_connection(error: RuntimeError) -> bool:
    """Whether a collective failed because of its connections: torch has an error of its own only for some; gloo names its source file."""
    text = str(error)
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in text or "onnection" in text


def _abandon(group: TensorParallel, ranks: LocalRanks | None) -> None:
    if ranks:
        ranks.close(grace=0.0)
    group.close()


def _end_group(runner: ModelRunner, group: TensorParallel, ranks: LocalRanks | None, process: int) -> None:
    if os.getpid() != process:  # the parent's, after a fork
        return
    with contextlib.suppress(RuntimeError, RankError):
        if group.rank == 0:
            runner.close()
    group.close()
    if ranks:
        ranks.close()
