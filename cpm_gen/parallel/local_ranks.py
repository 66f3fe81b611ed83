"""Starts the other ranks on this machine and ends all of them together.

Rank 0 is the process that the person started; ranks 1 and up are child processes. They connect through a file in a private
temporary folder. A child ends when its parent is gone, so it does not outlive rank 0, even after ``kill -9``. When a child dies,
rank 0's next collective fails at once and :meth:`LocalRanks.failure` gives the reason.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cpm_gen.config.environment import environment
from cpm_gen.errors import ConfigError, RankError
from cpm_gen.parallel.group import CONNECT, TensorParallel, connect

# -P and a path appended at the end: neither the current folder nor the package's comes before the standard library
_START = "import sys; sys.path.append(sys.argv[1]); from {} import main; sys.exit(main())"
_START_TIMEOUT = 120.0  # seconds for a child to import torch


class LocalRanks:
    """The child processes of one tensor-parallel group. ``folder``: where the ranks connect and the children write their logs."""

    def __init__(
        self,
        size: int,
        module: str,
        assignment: Callable[[int, str, int], str],
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        """Start ranks 1 to ``size - 1``; raises RankError if one cannot start.

        module: its ``main()`` is what a child runs. assignment: called with (rank, folder, ready) and returns the line of text
        that the child reads from its standard input; ``ready`` is a file descriptor to which the child writes a byte when it can
        connect. on_death: called from a thread some seconds after a child died if rank 0 has not closed the ranks by then (it
        may hang in a GPU's collective).
        """
        self.folder = tempfile.mkdtemp(prefix="cpm-gen-")
        self._closing = False
        self._on_death = on_death
        self._children: list[subprocess.Popen[bytes]] = []
        read, write = os.pipe()  # each child writes a byte when it can connect
        try:
            for rank in range(1, size):
                with self._log(rank).open("wb") as log:
                    child = subprocess.Popen(
                        [sys.executable, "-P", "-c", _START.format(module), str(Path(__file__).parents[2])],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        pass_fds=(write,),
                        start_new_session=True,  # rank 0 alone handles Ctrl-C
                    )
                self._children.append(child)
                assert child.stdin is not None
                child.stdin.write(assignment(rank, self.folder, write).encode() + b"\n")
                child.stdin.close()
            os.close(write)
            write = -1
            self._await_ready(read)
        except BaseException as error:
            self.close(grace=0.0)
            if isinstance(error, OSError):
                raise RankError(f"a rank could not be started: {error}") from None
            raise
        finally:
            os.close(read)
            if write >= 0:
                os.close(write)
        threading.Thread(target=self._watch, daemon=True, name="cpm-gen rank watch").start()

    def _log(self, rank: int) -> Path:
        return Path(self.folder, f"rank{rank}.log")

    def _await_ready(self, read: int) -> None:
        """Wait until every child is ready; raises RankError if one is dead or the time is up."""
        deadline = time.monotonic() + _START_TIMEOUT
        ready = 0
        while ready < len(self._children):
            if failure := self.failure():
                raise RankError(failure)
            if time.monotonic() > deadline:
                raise RankError(f"the other ranks did not start within {_START_TIMEOUT:.0f} seconds")
            if select.select([read], [], [], 0.1)[0]:
                ready += len(os.read(read, len(self._children)))

    def failure(self, wait: float = 0.0) -> str | None:
        """Why a child died and the last line of its log; None if all are alive after ``wait`` seconds."""
        deadline = time.monotonic() + wait
        while True:
            for rank, child in enumerate(self._children, start=1):
                status = child.poll()
                if status is not None and not (self._closing and status == 0):
                    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
                    lines = [s for s in self._log(rank).read_text(errors="replace").splitlines() if s.strip()]
                    return f"rank {rank} {how}" + (f": {lines[-1].strip()}" if lines else "")
            if time.monotonic() >= deadline:
                return None
            time.sleep(0.05)

    def _watch(self) -> None:
        while not self._closing:
            if (failure := self.failure()) and not self._closing:
                time.sleep(3)
                if not self._closing and self._on_death is not None:
                    self._on_death(failure)
                return
            time.sleep(0.5)

    def kill(self) -> None:
        """Kill the children; :meth:`close` removes what they leave."""
        for child in self._children:
            with contextlib.suppress(OSError):
                child.kill()

    def close(self, grace: float = 5.0) -> None:
        """Wait ``grace`` seconds for the children to end by themselves, kill the others, and remove the folder."""
        self._closing = True
        deadline = time.monotonic() + grace
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
        self.kill()
        for child in self._children:
            child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def exit_with_parent(parent: int, folder: str | None = None) -> None:
    """Exit this process when its parent is gone, so that a rank does not outlive its launcher.

    parent: its process id. folder: removed then, because the parent could not.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="cpm-gen parent watch").start()


def join_local(rank: int, size: int, device: torch.device, folder: str) -> TensorParallel:
    """Join the group of a :class:`LocalRanks`; raises ConfigError if this process is in a group already, RankError on failure.

    The ranks find each other through a file in ``folder``, so no port is open for that; gloo and NCCL listen on loopback.
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
        return connect(rank, size, torch.distributed)


def _loopback() -> contextlib.AbstractContextManager[None]:
    """Set the environment variables that make gloo and NCCL listen on loopback."""
    name = "lo0" if sys.platform == "darwin" else "lo"
    return environment({"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name})
