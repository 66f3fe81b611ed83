"""The process of one engine: reads jobs as JSON lines, writes one line per result, and blocks in between.

    python -m peers.worker NAME

Libraries may print to standard output. Results are written to a copy of it; its own file descriptor is redirected to standard error.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from peers import ENGINES
from peers.base import Engine, Unsupported


def peak_rss_mb(*, reset: bool = False) -> float:
    """Peak resident memory of this process in MB (since the last reset, if the system supports it)."""
    if reset:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


class Worker:
    """Runs jobs; a job's name is the name of a method."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def convert(self, weights: str, dtype: str, target: str) -> dict[str, Any]:
        from peers.weights import Weights

        self._check(dtype)
        self.engine.convert(Weights(Path(weights)), dtype, Path(target))
        return {}

    def load(self, target: str, dtype: str, threads: int, batch: int) -> dict[str, Any]:
        self._check(dtype)
        began = time.perf_counter()
        self.engine.load(Path(target), dtype, threads, batch)
        return {"seconds": time.perf_counter() - began, "version": self.engine.version, "peak_rss_mb": peak_rss_mb()}

    def logits(self, ids: list[int]) -> dict[str, Any]:
        return {"logits": self.engine.logits(ids).tolist()}

    def prefill(self, ids: list[int]) -> dict[str, Any]:
        peak_rss_mb(reset=True)
        return {"seconds": self.engine.prefill(ids), "peak_rss_mb": peak_rss_mb()}

    def decode(self, prompts: list[list[int]], tokens: int, seconds: float) -> dict[str, Any]:
        peak_rss_mb(reset=True)
        done = self.engine.decode(prompts, tokens, seconds)
        return {"first": done.first, "times": done.times, "ids": done.ids, "peak_rss_mb": peak_rss_mb()}

    def _check(self, dtype: str) -> None:
        if dtype not in self.engine.dtypes:
            raise Unsupported(f"has no {dtype}")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, name = ENGINES[sys.argv[1]]
    worker = None
    for line in sys.stdin:
        job = json.loads(line)
        try:
            if worker is None:
                worker = Worker(getattr(importlib.import_module(module), name)())
            answer = getattr(worker, job.pop("do"))(**job)
        except ImportError as error:
            answer = {"missing": str(error)}
        except Unsupported as error:
            answer = {"unsupported": str(error)}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
            import traceback

            traceback.print_exc()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
