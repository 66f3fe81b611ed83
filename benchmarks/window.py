"""Cost of slides: speed and inter-token latency inside the window and over several slides.

    python benchmarks/window.py [--json FILE] [--times FILE] [--models embedded cpm-distill] [--dtypes float32 int8] [--slides 4]

The hop is half and a quarter of the window, with second slots (the next window is encoded beside decoding) and without (it is encoded
at once at the slide). "inside" is another text with the same context lengths and no next window; the two run in turns, some steps
each. ITL is the time between two tokens of one sequence. ``--times`` stores the microseconds of every step, for
``benchmarks/plots.py``.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from models import percentile, random_checkpoint, save

import cpm_gen
from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.config.options import ModelOptions, SamplingParams
from cpm_gen.engine.engine import Engine
from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.engine.scheduler import CachedScheduler
from cpm_gen.engine.sequence import Request
from cpm_gen.engine.window import Window
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.runtime.build import build_runner
from cpm_gen.runtime.plan import Machine, plan_load

TURN = 16  # steps


class Writing:
    """A sequence, and the seconds of each of its steps after the first token."""

    def __init__(self, runner: ModelRunner, window: Window, slots: Sequence[int]) -> None:
        size = runner.network.size
        prompt = tuple((7919 * i) % (size.vocabulary - 16) + 11 for i in range(window.limit - window.hop))
        self.decoder = CachedScheduler(1, len(slots), 256)
        self.decoder.free_slots = list(slots)
        self.engine = Engine(runner, self.decoder, batch=1)
        self.sequence = self.engine.add(Request(prompt, window, None, SamplingParams(top_k=20), seed=0))
        self.times: list[float] = []
        while self.sequence.step == 0:
            self.engine.step()

    def go_on(self, steps: int) -> None:
        for _ in range(steps):
            began = time.perf_counter()
            self.engine.step()
            self.times.append(time.perf_counter() - began)

    def end(self) -> None:
        self.engine.cancel(self.sequence)


def stretch(runner: ModelRunner, window: Window, slots: int, slides: int) -> dict[str, Any]:
    """Seconds of the steps over ``slides`` slides ("past"), and of as many steps of a text inside its window, run in turns.

    The runner has one slot more than ``slots``.
    """
    past = Writing(runner, window, range(slots))
    past.go_on(window.hop - 1)
    past.times.clear()
    inside: list[float] = []
    for _ in range(slides):
        # contexts of limit - hop + 1 .. limit tokens, like those between two slides
        control = Writing(runner, window, [slots])
        todo = window.hop
        while todo:
            turn = min(TURN, todo)
            past.go_on(turn)
            control.go_on(turn)
            todo -= turn
        control.end()
        inside += control.times
    assert past.sequence.slides == slides
    past.end()
    assert bool(past.decoder.counts.slides_at_once) == (slots == 1)
    return {"inside": inside, "past": past.times}


def measure(
    folder: Path, name: str, heads: int | None, dtype: str, slides: int, steps: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of the table; the times of all steps are appended to ``steps``."""
    options: Any = {"quantize": "int8"} if dtype == "int8" else {"dtype": dtype}
    model = ModelOptions(model=str(folder), heads=heads, device="cpu", **options)
    plan = plan_load(model, Machine.detect())
    torch.set_num_threads(plan.threads)
    runner = build_runner(dataclasses.replace(plan.for_rank(0), slots=3), plan.checkpoint, TensorParallel())
    size = runner.network.size
    rows = []
    for share in (2, 4):
        window = Window(size.positions - 1, (size.positions - 1) // share)
        stretch(runner, window, 2, 1)  # warm up
        for slots in (1, 2):
            times = stretch(runner, window, slots, slides)
            inside, past = (statistics.median(times[where]) for where in ("inside", "past"))
            speed = {where: len(spent) / sum(spent) for where, spent in times.items()}
            rows.append(
                {
                    "engine": "cpm-gen cached" + ("" if slots == 2 else ", one slot"),
                    "version": cpm_gen.__version__,
                    "model": name,
                    "dtype": dtype,
                    "threads": plan.threads,
                    "work": f"decode past the window, hop 1/{share}, {slides} slides",
                    "batch": 1,
                    "tokens_per_second": round(speed["past"], 2),
                    "times_inside": round(speed["past"] / speed["inside"], 3),
                    "itl_p50_ms": round(1e3 * past, 3),
                    "itl_p99_ms": round(1e3 * percentile(times["past"], 0.99), 3),
                    "itl_max_ms": round(1e3 * max(times["past"]), 3),
                    "itl_p50_inside_ms": round(1e3 * inside, 3),
                }
            )
            micros = {where: [round(1e6 * t) for t in ts] for where, ts in times.items()}
            what = {"model": name, "dtype": dtype, "limit": window.limit, "hop": window.hop, "slots": slots}
            steps.append({**what, "microseconds": micros})
            print("  " + json.dumps(rows[-1]), file=sys.stderr)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["embedded", "cpm-distill"])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--slides", type=int, default=4)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    parser.add_argument("--times", type=Path, metavar="FILE", help="also write the times of all steps")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    for name in args.models:
        with tempfile.TemporaryDirectory() as tmp:
            folder, heads = EMBEDDED, None  # as its config.json says
            if name != "embedded":
                folder = Path(tmp, name)
                heads = random_checkpoint(folder, name).heads
            for dtype in args.dtypes:
                rows += measure(folder, name, heads, dtype, args.slides, steps)
    print(
        "| model | dtype | hop | slots | tokens/s past | × inside | ITL p50 | p99 | max (ms) |\n|---|---|---|---|---|---|---|---|---|"
    )
    for r in rows:
        hop, slots = r["work"].split("hop ")[1].split(",")[0], "one" if "one slot" in r["engine"] else "two"
        print(
            f"| {r['model']} | {r['dtype']} | {hop} | {slots} | {r['tokens_per_second']:.1f} | {r['times_inside']:.2f} | "
            f"{r['itl_p50_ms']:.1f} | {r['itl_p99_ms']:.1f} | {r['itl_max_ms']:.1f} |"
        )
    save(rows, args.json)
    if args.times is not None:
        args.times.write_text("[" + ",\n".join(json.dumps(s, separators=(",", ":")) for s in steps) + "]\n")


if __name__ == "__main__":
    main()
