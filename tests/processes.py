"""What the processes that tests start inherit: default signal actions, and an end with the test run."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

PROC = Path("/proc")
linux = pytest.mark.skipif(not PROC.is_dir(), reason="reads /proc")

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cpm_gen"]


def restore_signals() -> None:
    """Give the processes that tests start the default action for SIGINT and SIGHUP.

    A shell ignores SIGINT for what it runs in the background, nohup ignores SIGHUP, and children inherit an ignored signal. Where
    Python handles a signal, children get its default action. SIGINT raises KeyboardInterrupt here as usual; SIGHUP does nothing here.
    """
    handlers = {"SIGINT": signal.default_int_handler, "SIGHUP": lambda *_: None}
    for name, handler in handlers.items():
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@cache
def _has_setpriv() -> bool:
    """Whether this machine has util-linux's ``setpriv``, which only Linux does."""
    return shutil.which("setpriv") is not None and not subprocess.run(
        ["setpriv", "--pdeathsig", "KILL", "true"], stderr=subprocess.DEVNULL
    ).returncode  # fmt: skip


def with_death_signal(command: Sequence[Any], name: str = "KILL") -> list[str]:
    """Return the command, changed such that the kernel sends it this signal when the test run dies, even by SIGKILL.

    The process id stays that of the command. Start it from the main thread: the kernel watches the thread that started it. Without
    ``setpriv`` the command is unchanged, and only the test's own cleanup ends it.
    """
    words = list(map(str, command))
    return ["setpriv", "--pdeathsig", name, *words] if _has_setpriv() else words


def children(pid: int) -> list[int]:
    """The process ids of a process's children."""
    found = []
    for task in PROC.glob("[0-9]*"):
        try:
            parent = int((task / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
        if parent == pid:
            found.append(int(task.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
