"""Continuous batching against fixed batches of eight, and throughput against batch size. cpm-gen only.

    python benchmarks/batch.py --model cpm-distill --dtype float32 --batch 16 [--json FILE] [--scale 0.1]

64 requests, all queued at the start: prompts of 20 to 500 tokens, texts of 50 to 1,500, so that many windows slide. "continuous" gives
all of them to the engine. "fixed 8" gives it eight and waits for the longest of them. The two run in turns. ``--scale`` scales prompts,
texts and the window, for a quick trial.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bandwidth import Memory
from models import percentile, random_checkpoint, save
from peers.client import SETTLE
from peers.ours import Ours
from peers.pair import Work, row, works
from peers.worker import peak_rss_mb

import cpm_gen
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.sequence import Request, Sequence

FIXED = 8
SAMPLED = SamplingParams(temperature=0.95, top_k=50, top_p=0.95)


@dataclass
class Run:
    """Measurements of a set of requests. All times in seconds from its start."""

    seconds: float = 0.0
    tokens: int = 0
    steps: int = 0
    slides: int = 0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


def requests(ours: Ours, count: int, scale: float) -> list[Request]:
    """The requests; the same in every run."""
    dice = random.Random(3)
    most = ours.llm.size.vocabulary - 1

    def length(low: int, high: int) -> int:
        return max(1, round(scale * dice.randint(low, high)))

    return [
        Request(
            prompt=tuple(dice.randint(11, most) for _ in range(length(20, 500))),
            window=ours.llm.window,
            ends=None,
            params=SAMPLED,
            seed=n,
            max_new_tokens=length(50, 1500),
        )
        for n in range(count)
    ]


def run(ours: Ours, groups: list[list[Request]]) -> Run:
    """Give the engine one group after the other, and measure."""
    engine = ours.llm.engine.token_engine
    before = counts(ours)
    result = Run()
    began = time.perf_counter()
    for group in groups:
        texts = [engine.add(request) for request in group]
        last: dict[int, float] = {}
        while engine.busy:
            advanced: list[Sequence] = engine.step()
            now = time.perf_counter() - began
            result.steps += 1
            for text in advanced:
                if (at := last.get(id(text))) is None:
                    result.first.append(now)
                else:
                    result.gaps.append(now - at)
                last[id(text)] = now
        result.tokens += sum(text.step for text in texts)
        result.slides += sum(text.slides for text in texts)
    result.seconds = time.perf_counter() - began
    result.counts = {name: value - before[name] for name, value in counts(ours).items()}
    return result


def counts(ours: Ours) -> dict[str, int]:
    """The scheduler's counters so far."""
    return dataclasses.asdict(ours.llm.engine.scheduler.counts)


def mixed(ours: Ours, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each way of batching."""
    todo = requests(ours, args.requests, args.scale)
    ways = {
        f"continuous, up to {args.batch}": [todo],
        f"fixed {FIXED}": [todo[at : at + FIXED] for at in range(0, len(todo), FIXED)],
    }
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    for number in range(args.rounds):
        for way in list(ways) if number % 2 == 0 else reversed(ways):
            runs[way].append(run(ours, ways[way]))
            done = runs[way][-1]
            print(f"  {way}: {done.tokens / done.seconds:.1f} tokens/s, {done.counts}", file=sys.stderr)
    slow = runs[f"fixed {FIXED}"]
    return [
        {
            "work": f"{len(todo)} mixed requests, {way}",
            "batch": FIXED if done is slow else args.batch,
            "tokens_per_second": round(statistics.median(d.tokens / d.seconds for d in done), 2),
            "times_fixed": round(statistics.median(s.seconds / d.seconds for s, d in zip(slow, done, strict=True)), 3),
            "ttft_ms": round(1e3 * statistics.median(t for d in done for t in d.first), 1),
            "ttft_p99_ms": round(1e3 * percentile([t for d in done for t in d.first], 0.99), 1),
            "itl_p50_ms": round(1e3 * percentile([t for d in done for t in d.gaps], 0.5), 3),
            "itl_p99_ms": round(1e3 * percentile([t for d in done for t in d.gaps], 0.99), 3),
            "peak_rss_mb": round(peak_rss_mb()),
            "tokens": done[0].tokens,
            "steps": done[0].steps,
            "slides": done[0].slides,
            "counts": done[0].counts,
            "scale": args.scale,
        }
        for way, done in runs.items()
    ]


def throughput(ours: Ours, size: ModelSize, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each batch size; the sizes run in turns."""
    memory = Memory(args.threads)
    jobs = works(size, [b for b in args.batches if b <= args.batch], [], args.tokens, args.seconds)
    done: list[list[dict[str, Any]]] = [[] for _ in jobs]
    speeds: list[list[float]] = [[] for _ in jobs]
    for _ in range(args.rounds):
        for at, work in enumerate(jobs):
            before = memory.bandwidth()
            done[at].append(decode(ours, work))
            speeds[at].append((before + memory.bandwidth()) / 2)
    return [row(work, size, args.dtype, d, s) for work, d, s in zip(jobs, done, speeds, strict=True)]


def decode(ours: Ours, work: Work) -> dict[str, Any]:
    ours.decode(work.prompts, 4, work.seconds)  # warm up
    result = ours.decode(work.prompts, work.tokens, work.seconds)
    time.sleep(SETTLE)
    return {"first": result.first, "times": result.times, "peak_rss_mb": peak_rss_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cpm-distill", help="of configs/, or tiny")
    parser.add_argument("--dtype", default="float32", choices=Ours.dtypes)
    parser.add_argument("--kv-cache", default="auto", choices=["auto", "int8"])
    parser.add_argument("--batch", type=int, default=32, help=f"most texts at once, at least {FIXED}")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 2, 4, 8, 16, 32], help="for the throughput")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=128, help="most tokens to a text, for the throughput")
    parser.add_argument("--seconds", type=float, default=10.0, help="most seconds of one such run")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    args = parser.parse_args()
    if args.batch < FIXED:
        parser.error(f"--batch must be at least {FIXED}")
    with tempfile.TemporaryDirectory() as tmp:
        size = random_checkpoint(Path(tmp, args.model), args.model)
        limit = round(args.scale * (size.positions - 1))
        ours = Ours()
        options = {"window_limit": limit, "kv_cache": args.kv_cache}
        ours.load(Path(tmp, args.model), args.dtype, args.threads, args.batch, **options)
        with ours.llm:
            shared = {"engine": "ours", "version": cpm_gen.__version__, "model": args.model, "dtype": args.dtype}
            shared |= {"threads": args.threads, "kv_cache": args.kv_cache}
            rows = [{**shared, **r} for r in [*mixed(ours, args), *throughput(ours, size, args)]]
    print(f"{args.model}, {args.dtype}, {args.threads} threads, {args.rounds} rounds, medians\n")
    print("| work | tokens/s | × fixed | ITL p50 (ms) | p99 | TTFT p50 (s) | p99 | steps | slides | of them late |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in (r for r in rows if "steps" in r):
        print(
            f"| {r['work']} | {r['tokens_per_second']:.1f} | {r['times_fixed']:.2f} | {r['itl_p50_ms']:.1f} | "
            f"{r['itl_p99_ms']:.1f} | {r['ttft_ms'] / 1e3:.1f} | {r['ttft_p99_ms'] / 1e3:.1f} | {r['steps']} | "
            f"{r['slides']} | {r['counts']['slides_at_once']} |"
        )
    print("\n| batch | tokens/s | ITL p50 (ms) | p99 | of the roof |\n|---|---|---|---|---|")
    for r in (r for r in rows if r["work"] == "decode"):
        print(
            f"| {r['batch']} | {r['tokens_per_second']:.1f} | {r['itl_p50_ms']:.1f} | {r['itl_p99_ms']:.1f} | "
            f"{100 * r['roofline_fraction']:.0f} % |"
        )
    save(rows, args.json)


if __name__ == "__main__":
    main()
