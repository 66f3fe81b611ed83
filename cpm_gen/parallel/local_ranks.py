"""Starts the other ranks on this machine, and sees to it that all of them end together.

Rank 0 is the process that the person started; ranks 1.. are children that run :mod:`cpm_gen.runtime.rank_worker`. They meet in a file of
a private temporary folder. A child ends when its parent is gone, so it cannot outlive rank 0, even killed with -9; when a
child dies, rank 0's next collective fails at once and :meth:`Ranks.failure` tells why.
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
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from cpm_gen.errors import ConfigError, RankError
from cpm_gen.parallel.group import CONNECT, TensorParallel, connect
from cpm_gen.runtime.rank_worker import Assignment

# -P and a path at the end: neither the current folder nor ours stands before the standard library
_START = "import sys; sys.path.append(sys.argv[1]); from cpm_gen.runtime.rank_worker import main; sys.exit(main())"
_START_TIMEOUT = 120.0  # seconds for a child to import torch and find its device


class Ranks:
    """The children of one tensor-parallel group. Raises RankError when one cannot start."""

    def __init__(
        self,
        size: int,
        assignment: Callable[[int, str, int], Assignment],
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        """Start ranks 1 to ``size - 1``.

        on_death: called from a thread when a child dies and rank 0 has not noticed within seconds (it may hang in a GPU
        collective); the command line ends the process there.
        """
        self.folder = tempfile.mkdtemp(prefix="cpm-gen-")
        self._closing = False
        self._on_death = on_death
        self._children: list[subprocess.Popen[bytes]] = []
        read, write = os.pipe()  # each child writes a byte when it is ready to connect, and closes it by ending
        try:
            for rank in range(1, size):
                with self._log(rank).open("wb") as log:
                    child = subprocess.Popen(
                        [sys.executable, "-P", "-c", _START, str(Path(__file__).parents[2])],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        pass_fds=(write,),
                        start_new_session=True,  # Ctrl-C is rank 0's to handle
                    )
                self._children.append(child)
                assert child.stdin is not None
                child.stdin.write(assignment(rank, self.folder, write).to_json().encode() + b"\n")
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
        """Wait until every child said so, or one is dead, or time is up."""
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
        """What a dead child said last; None while all live. Waits up to ``wait`` seconds for one to be found dead."""
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
        """Kill the children; what they leave is tidied up by :meth:`close`."""
        for child in self._children:
            with contextlib.suppress(OSError):
                child.kill()

    def close(self, grace: float = 5.0) -> None:
        """Wait ``grace`` seconds for the children to end, as a plan told them; kill those that do not; tidy up."""
        self._closing = True
        deadline = time.monotonic() + grace
        for child in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
        self.kill()
        for child in self._children:
            child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


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
        return connect(rank, size, torch.distributed)


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
