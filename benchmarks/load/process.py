"""The service as a child process: start, measure, stop."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from startup import cpu_seconds


@dataclass(frozen=True)
class Reading:
    """What the system reports about a process and its children."""

    rss_mb: float
    threads: int
    files: int


class Process:
    """``cpm-gen serve`` with the given flags, on a free port, ready on return."""

    def __init__(self, flags: list[str]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        command = [sys.executable, "-m", "cpm_gen", "serve", "--port", "0"]
        command += ["--database", f"{self._folder.name}/works.db", *flags]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True, encoding="utf-8")
        assert self._process.stdout is not None
        found = re.fullmatch(r"cpm-gen serves \S+ on (http://\S+)\n", self._process.stdout.readline())
        if found is None:
            self._process.wait()
            raise SystemExit(f"the service did not start:\n{self.log()}")
        self.url = found[1]

    @property
    def _pids(self) -> list[int]:
        pid = self._process.pid
        found = [pid]
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, task.read_text().split())
        return found

    def read(self) -> Reading:
        """Memory of the process and its children; threads and open files of the process."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._pids)
        own = Path(f"/proc/{self._process.pid}")
        return Reading(
            pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
            len(list((own / "task").iterdir())),
            len(list((own / "fd").iterdir())),
        )

    def cpu_seconds(self) -> float:
        """CPU seconds of the process and its children so far."""
        return sum(map(cpu_seconds, self._pids))

    def log(self) -> str:
        """Standard error so far."""
        self._log.seek(0)
        return self._log.read()

    def close(self) -> int:
        """Stop the process; returns its exit status."""
        self._process.terminate()
        try:
            status = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return status

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._log.close()
        self._folder.cleanup()
