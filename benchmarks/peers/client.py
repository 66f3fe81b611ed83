"""The parent's side of :mod:`peers.worker`: starts an engine's process and sends it jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

BENCHMARKS = Path(__file__).resolve().parents[1]
SETTLE = 0.3  # seconds until the threads of most OpenMP runtimes stop spinning after a loop


class PeerError(Exception):
    """The engine failed, is not installed, or does not support the precision. The message says which."""


class Peer:
    """An engine in its own process, which sleeps between jobs and runs until :meth:`close`."""

    def __init__(self, name: str, python: str = sys.executable, threads: int = 1) -> None:
        self.name = name
        path = os.pathsep.join([str(BENCHMARKS), str(BENCHMARKS.parent)])
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, "-m", "peers.worker", name],
            env={**os.environ, "PYTHONPATH": path, **counts},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def ask(self, do: str, **job: Any) -> dict[str, Any]:
        """Send a job and wait for the result; raises PeerError."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **job}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise PeerError(f"{self.name}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            raise PeerError(f"{self.name}: not installed ({answer['missing']})")
        if "unsupported" in answer:
            raise PeerError(f"{self.name}: {answer['unsupported']}")
        if "error" in answer:
            raise PeerError(f"{self.name}: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        if status < 0:
            return f"its process was ended by {signal.Signals(-status).name}"
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f"its process ended with status {status}: {lines[-1] if lines else 'no message'}"

    def measure(self, do: str, **job: Any) -> dict[str, Any]:
        """Like :meth:`ask`, but returns when the engine's threads sleep again."""
        answer = self.ask(do, **job)
        time.sleep(SETTLE)
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
