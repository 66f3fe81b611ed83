"""Run the commands of a page: the ``$ `` lines of its ``console`` blocks, and the files that its titled blocks show.

A page is read from top to bottom by one bash in one folder, as a reader types it, so variables and files stay. The lines below a
command are what it prints: ``…`` stands for any characters of a line, and on a line of its own for any number of lines. A command
without such lines may print anything. Every command must end with status 0. ``cpm-gen serve`` is left running in the background,
on a free port in place of 8000, until the page ends or starts it again.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.processes import with_death_signal
from tests.waiting import PATIENCE, until

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^( *)```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_END = "\x01end of command\x01"
_SERVE = re.compile(r"cpm-gen serve(?! --new-key)\b")
_INTERRUPTED_AFTER = 20  # seconds that a text without an end is written for


@dataclass(frozen=True)
class File:
    """A file that the page shows: ```` ```text title="song.txt" ````."""

    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command, and the lines that it prints according to the page."""

    text: str
    output: tuple[str, ...]

    @property
    def words(self) -> str:
        """The command without the comment at its end."""
        return re.sub(r"\s+# .*", "", self.text).strip()


def steps(page: str) -> list[File | Command]:
    """The files and commands of a page, in its order."""
    found: list[File | Command] = []
    for _, kind, title, block in _FENCE.findall(page):
        if title:
            found.append(File(title, block))
        elif kind == "console":
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                text, *output = part.rstrip("\n").split("\n")
                while text.endswith("\\"):
                    text += "\n" + output.pop(0)
                while output and not output[-1]:
                    output.pop()
                found.append(Command(text, tuple(output)))
    return found


def commands(page: str) -> list[Command]:
    """The commands of a page."""
    return [step for step in steps(page) if isinstance(step, Command)]


def prints(expected: tuple[str, ...], output: str) -> bool:
    """Whether an output is what a page shows."""
    lines = [
        r"(?:.*\n)*" if line == "…" else ".*".join(map(re.escape, line.rstrip().split("…"))) + r" *\n"
        for line in expected
    ]
    return re.fullmatch("".join(lines), output.rstrip("\n") + "\n") is not None


class Shell:
    """A bash that runs the commands of one page, with this checkout's ``cpm-gen`` first on its path."""

    def __init__(self, folder: Path, replaced: Mapping[str, str] | None = None) -> None:
        """replaced: what stands for names that are the reader's, such as ``/path/to/CPM``."""
        self._folder = folder
        self._replaced = replaced or {}
        self._service: subprocess.Popen[bytes] | None = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = str(free.getsockname()[1])
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("CPM_GEN_")}
        self._environment = inherited | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "XDG_DATA_HOME": str(folder / ".data"),
            "CPM_GEN_PORT": self._port,
            "PYTHONUNBUFFERED": "1",
            "LC_ALL": "C.UTF-8",
            "LANGUAGE": "en",
            "no_proxy": "*",
        }
        self._bash = subprocess.Popen(
            with_death_signal(["bash", "--noprofile", "--norc"]),
            cwd=folder, env=self._environment, start_new_session=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def write(self, file: File) -> None:
        """Write a file that the page shows."""
        (self._folder / file.name).write_text(file.text, encoding="utf-8")

    def run(self, command: Command, patience: float = 600.0) -> None:
        """Run a command as the page has it; fails if its status is not 0, or if it prints something else."""
        text = command.text
        for name, instead in self._replaced.items():
            text = text.replace(name, instead)
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{self._port}")
        if _SERVE.match(command.words):
            self._serve(text)
            output, status = self._said(), 0
        elif "unlimited" in text:
            output, status = self._run(f"timeout --preserve-status -s INT {_INTERRUPTED_AFTER} {text}", patience)
            assert status == 130, f"{command.words}: status {status} after Ctrl-C\n{output}"
            assert output.strip(), f"{command.words}: Ctrl-C left no text"
            return
        else:
            output, status = self._run(text, patience)
        assert status == 0, f"{command.words}: status {status}\n{output}"
        if command.output:
            shown = output.replace(self._port, "8000")
            assert prints(command.output, shown), f"{command.words} prints\n{shown}\nnot\n" + "\n".join(command.output)

    def _run(self, text: str, patience: float) -> tuple[str, int]:
        assert self._bash.stdin is not None and self._bash.stdout is not None
        script = f"{{ {text}\n}} </dev/null\nprintf '{_END}%s\\n' $?\n"
        self._bash.stdin.write(script.encode())
        self._bash.stdin.flush()
        deadline = time.monotonic() + patience
        heard = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._bash.stdout, selectors.EVENT_READ)
            while not (found := re.search(rf"{_END}(\d+)\n".encode(), heard)):
                assert selector.select(deadline - time.monotonic()), f"{text}: not done in {patience:g} seconds"
                part = os.read(self._bash.stdout.fileno(), 65_536)
                assert part, f"{text}: bash ended\n{heard.decode()}"
                heard += part
        return heard[: found.start()].decode(), int(found[1])

    def _serve(self, text: str) -> None:
        self._end_service()
        with (self._folder / ".serve.out").open("wb") as out, (self._folder / ".serve.err").open("wb") as err:
            self._service = subprocess.Popen(
                with_death_signal(["bash", "-c", f"exec {text}"]),
                cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip
        until(lambda: self._said() or self._service is None or self._service.poll() is not None)
        assert self._said(), (self._folder / ".serve.err").read_text()

    def _said(self) -> str:
        return (self._folder / ".serve.out").read_text(encoding="utf-8")

    def _end_service(self) -> None:
        if self._service is not None:
            self._service.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._service.wait(PATIENCE)
            self._service.kill()
            self._service.wait()
            self._service = None

    def close(self) -> None:
        """End the service, the shell and what the shell still runs."""
        self._end_service()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        for stream in (self._bash.stdin, self._bash.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
