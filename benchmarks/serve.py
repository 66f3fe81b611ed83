"""A running service under load, over its port: throughput, time to first token, inter-token latency, failures.

    python benchmarks/serve.py [--clients 1 8 32 128] [--lengths llmperf mixed] [--json FILE] [-- --batch 32 --quantize int8 …]
    python benchmarks/serve.py --rate 0.5 2 8 --allow-429 -- --queue 16
    python benchmarks/serve.py --soak 600 [--idle 5000]

Flags after ``--`` are passed to ``cpm-gen serve``, which is started, measured and stopped; ``--url`` uses a service that already runs. This
process only sends requests, with its own client (``load/http.py``). Its CPU use is printed, because it competes with the server.

Closed loops: each of ``--clients`` sends its next request when the previous response is complete. Open loops: requests arrive as a Poisson
process of ``--rate`` per second, and their times count from the scheduled arrival. Lengths: "llmperf" as in LLMPerf's published runs
(prompts of 550 tokens, deviation 150; texts of 150, deviation 10); "mixed" from 20 to 500 and from 50 to 1,500. Prompts are taken from
prose that the service wrote, with exactly the drawn number of tokens. Every level uses the same requests.

ITL is the time between two events of a stream; an event may hold several tokens ("tokens an event"). Tokens are counted by their ids.
Tokens per second are all tokens of a level over its whole time, including its end, when fewer clients are left. The exit status is 1 if
any response is not 200, is incomplete, or has another number of tokens than requested. ``--allow-429`` accepts refusals, for
overload tests.

``--soak`` runs a mix of all requests for the given number of seconds and then looks for leaks (``load/soak.py``), with ``--idle`` beside as
many connections that send nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import random
import resource
import sys
import time
from pathlib import Path
from typing import Any

from load.asking import LENGTHS, Request, arrivals, requests, source
from load.figures import HEADER, line, row
from load.http import Server
from load.loops import Target, closed, opened
from load.process import Process
from load.soak import soak
from models import save

from cpm_gen.server.uvicorn_protocol import raise_open_files_limit

OPENING = Path(__file__).parents[1] / "examples" / "novel.txt"


def spent() -> float:
    """CPU seconds that this process has used."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def level(
    args: argparse.Namespace, target: Target, process: Process | None, asked: list[Request], clients: int, rate: float
) -> dict[str, Any]:
    """Run one level: a closed loop of ``clients``, or an open loop if ``rate`` is set. Returns its row."""
    ours, theirs = spent(), process.cpu_seconds() if process else 0.0
    began = time.perf_counter()
    if rate:
        outcomes = await opened(target, asked, arrivals(rate, len(asked), random.Random(args.seed)))
    else:
        outcomes = await closed(target, asked, clients)
    seconds = time.perf_counter() - began
    return {
        "load": f"open, {rate:g}/s" if rate else f"{clients} client{'s' * (clients > 1)}",
        "clients": clients or None,
        "rate": rate or None,
        **row(outcomes, seconds, allow_429=args.allow_429),
        "generator_cores": round((spent() - ours) / seconds, 3),
        "server_cores": round((process.cpu_seconds() - theirs) / seconds, 3) if process else None,
    }


async def measure(args: argparse.Namespace, url: str, process: Process | None) -> list[dict[str, Any]]:
    """Run all levels and print their rows."""
    server = Server(url)
    model = (await server.json("GET", "/health/ready"))["model"]
    target = Target(server, args.route, model)
    text = await source(server, OPENING.read_text(encoding="utf-8"), args.source_tokens)
    levels = [(n, 0.0) for n in args.clients if not args.rate] + [(0, rate) for rate in args.rate]
    rows = []
    print(
        f"{model}, {platform.machine()}, {os.cpu_count()} cores, {args.route}, flags: {' '.join(args.flags) or 'none'}"
    )
    print(HEADER)
    for lengths in args.lengths:
        counts = [max(args.requests, 2 * clients) for clients, _ in levels]
        asked = await requests(server, text, lengths, max(counts), args.seed)
        await closed(target, asked[:4], 4)  # warm up
        for (clients, rate), count in zip(levels, counts, strict=True):
            done = await level(args, target, process, asked[:count], clients, rate)
            rows.append({"model": model, "route": args.route, "flags": args.flags, "lengths": lengths, **done})
            print(line(rows[-1]), flush=True)
    print("\ncores in use, generator / server: ", end="")
    print(", ".join(f"{r['generator_cores']:.2f} / {r['server_cores'] or float('nan'):.2f}" for r in rows))
    return rows


def report(row: dict[str, Any]) -> None:
    """Print the result of a soak, and every twentieth of its readings of the process."""
    print(
        f"{row['model']}, {row['seconds']:g} s: {row['requests']} requests, {row['texts']} texts, {row['tokens']} tokens"
    )
    print(", ".join(f"{name} {count}" for name, count in sorted(row["turns"].items())))
    print("\n| of the time | RSS (MB) | threads | open files |\n|---|---|---|---|")
    series = row["series"]
    for at in sorted({round(part * (len(series) - 1) / 20) for part in range(21)}):
        r = series[at]
        print(f"| {at / (len(series) - 1):.0%} | {r['rss_mb']:.1f} | {r['threads']} | {r['files']} |")
    print("\n" + ("\n".join(row["problems"]) or "no leaks, and all counters agree"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", type=int, default=[1, 8, 32, 128], help="of closed loops")
    parser.add_argument("--rate", nargs="+", type=float, default=[], help="requests a second, of open loops instead")
    parser.add_argument("--lengths", nargs="+", default=list(LENGTHS), choices=list(LENGTHS))
    parser.add_argument("--requests", type=int, default=48, help="of a level; at least two for each client")
    parser.add_argument("--route", default="/generate", choices=["/generate", "/v1/completions"])
    parser.add_argument("--allow-429", action="store_true", help="do not count refusals (429) as failures")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--source-tokens", type=int, default=6000, help="of the prose that prompts are taken from")
    parser.add_argument("--idle", type=int, default=0, metavar="N", help="idle connections beside a soak")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="run a mix of all requests and look for leaks")
    parser.add_argument("--url", help="use a service that already runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    parser.add_argument("flags", nargs="*", help="of cpm-gen serve, after --")
    args = parser.parse_args()
    if args.url and (args.soak or args.flags):
        parser.error("--url takes no flags of the service, and --soak must start its own")
    if args.idle:
        raise_open_files_limit(args.idle + 1024)
    with contextlib.nullcontext() if args.url else Process(["--no-access-log", *args.flags]) as process:
        if args.soak:
            rows = [asyncio.run(soak(process, args.soak, OPENING.read_text(encoding="utf-8"), args.seed, args.idle))]
            report(rows[0])
        else:
            rows = asyncio.run(measure(args, args.url or process.url, process))
    save(rows, args.json)
    sys.exit(1 if any(r["failures"] for r in rows) else 0)


if __name__ == "__main__":
    main()
