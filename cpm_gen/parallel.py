"""The tensor-parallel group: an object that is passed in, never looked up.

:class:`TensorParallel` hides who carries the bytes: nobody (one rank), ``torch.distributed`` (our own launcher, torchrun)
or ``deepspeed.comm`` (the deepspeed launcher). Tensors go over NCCL on GPUs and gloo on CPUs; the small integer plans of
every step always go over gloo, whose waiting rank sleeps instead of spinning and may wait for days.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpm_gen.errors import ConfigError, RankError

CONNECT = datetime.timedelta(minutes=5)  # ranks must meet, and an operation end, within this
IDLE = datetime.timedelta(days=365)  # a rank waits for its next plan while a person thinks
_PLAN_WORDS = 256  # a plan up to this long goes in one message


class TensorParallel:
    """One rank's place in its group. ``size`` 1 needs no communication and every operation returns its input."""

    def __init__(self, rank: int = 0, size: int = 1, comm: Any = None, plans: Any = None) -> None:
        self.rank = rank
        self.size = size
        self.seconds = 0.0  # spent in the operations below; on a GPU: in handing them over
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
        """Every rank's ``x`` ``[..., n]`` side by side, ``[..., n * size]``, in rank order."""
        if self.size == 1:
            return x
        parts = [torch.empty_like(x) for _ in range(self.size)]
        with self._timed():
            self._comm.all_gather(parts, x.contiguous())
        return torch.cat(parts, dim=-1)

    def broadcast_plan(self, words: list[int] | None) -> list[int]:
        """Rank 0's integers, on every rank; the others pass None and wait."""
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
        """Wait for all ranks, however long one of them takes; raises RuntimeError where one is gone."""
        if self.size > 1:
            torch.distributed.barrier(group=self._plans)

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1 and torch.distributed.is_initialized():
            with contextlib.suppress(RuntimeError):  # a peer may be gone already
                torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class Launch:
    """What an outside launcher (torchrun, deepspeed) told this process."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    deepspeed: bool


def launched() -> Launch | None:
    """The place that a launcher gave this process; None where it was started alone.

    The deepspeed launcher is told apart by ``CROSS_RANK``, which its ``launch.py`` sets and torchrun does not.
    """
    env = os.environ
    if "RANK" not in env or env.get("WORLD_SIZE", "1") == "1":
        return None
    if "MASTER_ADDR" not in env or "MASTER_PORT" not in env:
        raise ConfigError(
            "RANK and WORLD_SIZE are set, but not MASTER_ADDR and MASTER_PORT; use a launcher, or unset them"
        )
    deepspeed = "CROSS_RANK" in env and "TORCHELASTIC_RUN_ID" not in env
    try:
        size = int(env["WORLD_SIZE"])
        return Launch(
            rank=int(env["RANK"]),
            size=size,
            local_rank=int(env.get("LOCAL_RANK", env["RANK"])),
            local_size=int(env.get("LOCAL_WORLD_SIZE") or env.get("LOCAL_SIZE") or size),
            deepspeed=deepspeed,
        )
    except ValueError:
        raise ConfigError(
            "RANK, WORLD_SIZE and LOCAL_RANK must be numbers, as a launcher sets them; unset them"
        ) from None


def pick_device(name: str, local_rank: int) -> torch.device:
    """The device that a rank runs on; raises ConfigError where there is no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be cpu, cuda, cuda:N or auto, not {name!r}") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ConfigError(f"device must be cpu, cuda, cuda:N or auto, not {name!r}")
    count = torch.cuda.device_count()
    index = local_rank if device.index is None else device.index + local_rank
    if index >= count:
        raise ConfigError(f"device {name}: rank {local_rank} needs GPU {index}, this machine has {count}")
    return torch.device("cuda", index)


def useful_threads(hidden: int, *, native: bool) -> int:
    """CPU threads that pay for a network of this hidden size: a core for every 4 million weights of a layer, in torch.

    Every layer waits a few times for all threads; in a small one torch's waiting costs more than the second core saves, and
    far more on a machine that does something else too. The native kernels wait less: a core for every 200,000 weights.
    """
    return min(os.cpu_count() or 1, -(-12 * hidden**2 // (200_000 if native else 4_000_000)))


def join_launched(launch: Launch, device: torch.device) -> TensorParallel:
    """Join the group that torchrun or deepspeed made room for."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    end_with_parent(os.getppid())
    if not launch.deepspeed:
        torch.distributed.init_process_group(backend, timeout=CONNECT)
        return _group(launch.rank, launch.size, torch.distributed)
    return _group(launch.rank, launch.size, _init_deepspeed(backend))


def _init_deepspeed(backend: str) -> Any:
    """``deepspeed.comm``, initialised over ``backend`` and with nothing of it on standard output, which is the text's.

    On a CPU, DeepSpeed 0.19 compiles a shared-memory all-reduce at start, without a fallback, that ignores group and operation;
    our collectives are gloo's, so it is switched off.
    """
    if backend == "gloo":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before the import, which else prints a warning
    with contextlib.redirect_stdout(sys.stderr):
        try:
            import deepspeed
            import deepspeed.comm
            import deepspeed.utils
        except ImportError as error:
            raise ConfigError(
                f"started by the deepspeed launcher, but deepspeed cannot be imported ({error}); "
                "install deepspeed in the same environment, or use torchrun or --tensor-parallel"
            ) from None
        # not "import deepspeed.comm.torch": that name is torch itself there
        carrier = importlib.import_module("deepspeed.comm.torch")
        if backend == "gloo" and hasattr(carrier, "build_shm_op"):
            carrier.build_shm_op = lambda: None  # type: ignore[attr-defined]
        for handler in deepspeed.utils.logger.handlers:
            if hasattr(handler, "setStream"):
                handler.setStream(sys.stderr)
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=CONNECT)
    return deepspeed.comm


def end_with_parent(parent: int, folder: str | None = None) -> None:
    """End this process when its parent (``os.getppid()`` as it was) is gone: a rank must not outlive its launcher.

    ``folder`` was the parent's to remove, and is removed for it.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="cpm-gen parent watch").start()


def join_local(rank: int, size: int, device: torch.device, folder: str) -> TensorParallel:
    """Join a group of processes on this machine that our own launcher started.

    They meet in a file of ``folder``, so nothing listens for the rendezvous; gloo and NCCL are told to listen on loopback.
    """
    if torch.distributed.is_initialized():
        raise ConfigError("this process already runs a model over several ranks; close that one first")
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    store = torch.distributed.FileStore(str(Path(folder, "rendezvous")), size)  # type: ignore[attr-defined]
    with _loopback():
        torch.distributed.init_process_group(
            "nccl" if cuda else "gloo",
            store=store,
            rank=rank,
            world_size=size,
            timeout=CONNECT,
            device_id=device if cuda else None,  # connects now, while the environment says loopback
        )
        return _group(rank, size, torch.distributed)


@contextlib.contextmanager
def _loopback() -> Iterator[None]:
    """gloo and NCCL read from the environment where to listen; the process's own environment is put back."""
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "lo0" if sys.platform == "darwin" else "lo"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _group(rank: int, size: int, comm: Any) -> TensorParallel:
    try:
        plans = torch.distributed.new_group(backend="gloo", timeout=IDLE)
    except RuntimeError as error:
        torch.distributed.destroy_process_group()
        raise RankError(f"the ranks could not connect: {error}") from error
    return TensorParallel(rank, size, comm, plans)
