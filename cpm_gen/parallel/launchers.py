"""Ranks that an outside launcher started: torchrun and deepspeed."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cpm_gen.errors import ConfigError

if (
    TYPE_CHECKING
):  # the command line asks for its rank before it knows that there is something to do: importing torch takes seconds
    import torch

    from cpm_gen.parallel.group import TensorParallel


@dataclass(frozen=True)
class Launch:
    """This process's place among the ranks that an outside launcher (torchrun, deepspeed) started."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    deepspeed: bool


def launched() -> Launch | None:
    """This process's place, from the launcher's environment variables; None without a launcher.

    Raises ConfigError if the variables are incomplete. ``CROSS_RANK`` is set by deepspeed's ``launch.py`` and not by torchrun.
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


def join_launched(launch: Launch, device: torch.device) -> TensorParallel:
    """Join the group of a launcher's ranks; raises RankError or ConfigError."""
    import torch

    from cpm_gen.parallel.group import CONNECT, connect
    from cpm_gen.parallel.local_ranks import exit_with_parent
    from cpm_gen.parallel.lost_peers import notice_lost_peers

    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    exit_with_parent(os.getppid())
    with notice_lost_peers():
        if not launch.deepspeed:
            torch.distributed.init_process_group(backend, timeout=CONNECT)
            return connect(launch.rank, launch.size, torch.distributed)
        return connect(launch.rank, launch.size, _init_deepspeed(backend))


def _init_deepspeed(backend: str) -> Any:
    """``deepspeed.comm``, initialised over ``backend``; its messages go to standard error, because texts go to standard output.

    On a CPU, DeepSpeed 0.19 compiles a shared-memory all-reduce at start, without a fallback, that ignores group and operation.
    It is switched off, and the collectives are gloo's.
    """
    from cpm_gen.parallel.group import CONNECT

    if backend == "gloo":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # before the import, which would print a warning
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
