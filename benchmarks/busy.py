"""Speed of one text beside other programs that use the same cores.

    python benchmarks/busy.py [--models embedded cpm-distill] [--others 0 1 2 4] [--json FILE]

``--others``: the number of programs that keep a core busy. Each case runs with one thread and with one thread per core, in turns. One
thread per core should be faster if the cores are free, and not slower if they are busy.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models import random_checkpoint, save

import cpm_gen
from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.sequence import Request


@contextlib.contextmanager
def others(count: int) -> Iterator[None]:
    """Run ``count`` programs that keep a core busy."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        time.sleep(0.5)
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def rate(folder: Path | None, threads: int, seconds: float) -> float:
    """Tokens per second of one text."""
    with cpm_gen.load(folder, threads=threads) as llm:
        engine = llm.engine.token_engine
        engine.add(Request(prompt=(8,), window=llm.window, ends=None, params=SamplingParams(), seed=0))
        until, tokens = time.perf_counter() + 1.0, 0  # warm-up
        while time.perf_counter() < until:
            engine.step()
        began = time.perf_counter()
        while (took := time.perf_counter() - began) < seconds:
            engine.step()
            tokens += 1
    return tokens / took


def measure(folder: Path | None, name: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The rows of one model."""
    cores = len(os.sched_getaffinity(0))
    for count in args.others:
        found: dict[int, list[float]] = {1: [], cores: []}
        with others(count):
            for _ in range(args.rounds):
                for threads, rates in found.items():
                    rates.append(rate(folder, threads, args.seconds))
        for threads, rates in found.items():
            yield {
                "engine": "cpm-gen",
                "version": cpm_gen.__version__,
                "model": name,
                "dtype": "float32",
                "work": f"decode beside {count} others on {cores} cores",
                "batch": 1,
                "threads": threads,
                "tokens_per_second": round(statistics.median(rates), 1),
                "of_one_thread": round(statistics.median(a / b for a, b in zip(rates, found[1], strict=True)), 2),
            }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["embedded", "cpm-distill"])
    parser.add_argument("--others", nargs="+", type=int, default=[0, 1, 2, 4], metavar="N")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    args = parser.parse_args()
    rows = []
    print("| model | work | threads | tokens/s | × one thread |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as tmp:
        for name in args.models:
            folder = None if name == "embedded" else Path(tmp, name)
            if folder:
                random_checkpoint(folder, name)
            for row in measure(folder, name, args):
                rows.append(row)
                print(
                    "| {model} | {work} | {threads} | {tokens_per_second} | {of_one_thread} |".format(**row), flush=True
                )
    save(rows, args.json)


if __name__ == "__main__":
    main()
