"""Processes that tests start, whatever started the tests."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import with_death_signal
from tests.waiting import until

ROOT = Path(__file__).parents[1]
CTRL_C = "tests/runtime/test_reshard.py::test_ctrl_c_leaves_nothing_behind[moment0-False]"
INHERITED = f"{Path(__file__)}::test_children_have_the_default_actions_for_signals"

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")


@posix
def test_children_have_the_default_actions_for_signals() -> None:
    program = "import signal; print(signal.getsignal(signal.SIGINT).__name__, signal.getsignal(signal.SIGHUP).name)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["default_int_handler", "SIG_DFL"]


@pytest.mark.slow
@posix
def test_ctrl_c_tests_pass_in_the_background_and_under_nohup() -> None:
    program = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *sys.argv[1:]])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, INHERITED, CTRL_C], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout
    assert "2 passed" in run.stdout


@pytest.mark.skipif(not with_death_signal([]), reason="needs util-linux's setpriv")
def test_a_child_ends_when_its_test_run_is_killed() -> None:
    program = (
        "import os, signal, subprocess\n"
        "from tests.processes import with_death_signal\n"
        "print(subprocess.Popen(with_death_signal(['sleep', '600']), stdout=subprocess.DEVNULL).pid, flush=True)\n"
        "input()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout is not None
        child = Path("/proc", run.stdout.readline().strip(), "cmdline")
        until(lambda: child.read_text().split("\0")[0] == "sleep")  # setpriv has become the command
        run.communicate("\n")
    assert run.returncode == -signal.SIGKILL

    def gone() -> bool:
        try:
            return child.read_text() == ""  # a zombie until init has read its status
        except OSError:
            return True

    until(gone, 20)
