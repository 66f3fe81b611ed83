"""Replicas: requests a second and p99 of plain ``cpm-gen serve`` and of Ray Serve with 1 and 2 replicas, under the same load.

    python benchmarks/scale.py [--clients 4] [--requests 120] [--tokens 64] [--database postgresql+psycopg://…] [--json FILE]

Closed loops: each of ``--clients`` sends its next request when the previous text is complete; the texts are streamed. Each replica has
one thread and a batch of ``--batch``. ``--health`` requests to /health, one after the other, measure the way through the proxy alone.

With ``--database``, what commits of works cost is measured first. Without it Ray Serve has 1 replica only, since replicas share works over
PostgreSQL. All of it runs on this machine, with the clients: with two cores, two replicas have a core each at best.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import platform
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml
from load.asking import Request
from load.figures import row
from load.http import Server
from load.loops import Target, closed
from load.process import Process
from models import percentile, save

from cpm_gen.works.storage.records import StoredText, StoredWork, TextPiece, WorkChange
from cpm_gen.works.storage.store import Store

FILE = Path(__file__).parents[1] / "configs" / "ray" / "serve.yaml"
OPENING = Path(__file__).parents[1] / "examples" / "novel.txt"
START = 900.0  # seconds; a busy machine starts Ray in minutes
HEADER = """
| service | streamed: requests/s | tokens/s | p50 / p99 (s) | TTFT p50 / p99 (ms) | whole: requests/s | /health p50 / p99 (ms) | failed |
|---|---|---|---|---|---|---|---|"""


@contextlib.contextmanager
def ray_serve(replicas: int, batch: int, database: str | None) -> Iterator[str]:
    """The address of Ray Serve with ready replicas, in a cluster of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    config["http_options"]["port"] = port
    with tempfile.TemporaryDirectory() as folder:
        given = {"replicas": replicas, "batch": batch, "threads": 1, "access_log": False}
        config["applications"][0]["args"] = given | {"database": database or f"{folder}/works.db"}
        path = Path(folder, "ray-serve.yaml")
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        environment = os.environ | {
            "RAY_ADDRESS": "local",
            "RAY_worker_niceness": "0",
            "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
            "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
        }
        command = [str(Path(sys.executable).with_name("serve")), "run", str(path)]
        with (
            Path(folder, "log").open("w+") as log,
            subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder) as process,
        ):
            try:
                deadline, seen, url = time.monotonic() + START, set[str](), f"http://127.0.0.1:{port}"
                while len(seen) < replicas:
                    if process.poll() is not None or time.monotonic() > deadline:
                        raise SystemExit(f"Ray Serve did not start:\n{Path(folder, 'log').read_text()[-3000:]}")
                    time.sleep(0.2)
                    with contextlib.suppress(
                        httpx.HTTPError
                    ):  # each replica that takes requests started at another time
                        metrics = httpx.get(f"{url}/metrics", trust_env=False).text
                        seen |= set(re.findall(r"^process_start_time_seconds (\S+)", metrics, re.MULTILINE))
                yield url
            finally:
                process.send_signal(signal.SIGINT)


def health(url: str, count: int) -> list[float]:
    """Milliseconds of requests that need no model, over one connection."""
    times = []
    with httpx.Client(base_url=url, trust_env=False, timeout=60.0) as client:
        for _ in range(count):
            began = time.perf_counter()
            client.get("/health").raise_for_status()
            times.append(1e3 * (time.perf_counter() - began))
    return times


async def load(args: argparse.Namespace, url: str) -> dict[str, Any]:
    """One level of load."""
    text, chance = OPENING.read_text(encoding="utf-8"), random.Random(args.seed)
    starts = [chance.randrange(max(1, len(text) - args.prompt)) for _ in range(args.requests)]
    asked = [Request(text[at : at + args.prompt], 0, args.tokens, seed) for seed, at in enumerate(starts)]
    target = Target(Server(url), "/generate", "")
    await closed(target, asked[: args.clients], args.clients)  # warm
    began = time.perf_counter()
    outcomes = await closed(target, asked, args.clients)
    found = row(outcomes, time.perf_counter() - began, allow_429=False)
    todo = iter(asked)

    async def client() -> None:
        for request in todo:
            await target.server.json("POST", "/generate", request.body("/generate", "") | {"stream": False})

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(args.clients)))
    return found | {"whole_requests_per_second": round(len(asked) / (time.perf_counter() - began), 3)}


def commits(database: str) -> None:
    """Print what the commits of works cost: one transaction for all works of a service, each with a piece of one text."""
    store = Store(database)
    for count in (1, 8, 32, 128):
        works = [_work(f"work-{number:016x}") for number in range(count)]
        for work in works:
            store.add(work)
        leases = [taken[1] for work in works if (taken := store.take(work.id, "benchmark"))]
        times = []
        for turn in range(30):
            changes = []
            for work, lease in zip(works, leases, strict=True):
                text = dataclasses.replace(work.texts[0], tokens=5 * turn + 5, chars=8 * turn + 8)
                piece = TextPiece(5 * turn, 8 * turn, (1, 2, 3, 4, 5), "一二三四五六七八")
                changes.append(WorkChange(work.id, "queued", None, [(text, [piece])], lease))
            began = time.perf_counter()
            assert store.save(changes) == []
            times.append(1e3 * (time.perf_counter() - began))
        began = time.perf_counter()
        store.renew("benchmark", [work.id for work in works])
        renewed = 1e3 * (time.perf_counter() - began)
        reads = []
        for work in works:
            began = time.perf_counter()
            store.get(work.id)
            store.read(work.id, 0, 145)
            reads.append(1e3 * (time.perf_counter() - began))
        for work in works:
            store.delete(work.id)
        print(
            f"| {count} works in a commit | {percentile(times, 0.5):.1f} / {percentile(times, 0.99):.1f} ms "
            f"| {1e3 * count / percentile(times, 0.5):,.0f} works/s on one connection | renewal of all {renewed:.1f} ms "
            f"| reading one for a follower {percentile(reads, 0.5):.1f} ms |",
            flush=True,
        )
    store.close()


def _work(id: str) -> StoredWork:
    return StoredWork(
        id=id,
        owner="benchmark",
        model="m",
        network="n",
        state="queued",
        created=1.0,
        updated=1.0,
        prompt="话说",
        parameters={},
        metadata={},
        texts=[StoredText(place=0, prompt_ids=(1, 2), sample=0, max_tokens=None)],
    )


def measure(args: argparse.Namespace, name: str, url: str) -> dict[str, Any]:
    """Measure a running service and print its row."""
    found = asyncio.run(load(args, url))
    alone = health(url, args.health)
    found |= {
        "service": name,
        "requests_per_second": round(found["requests"] / found["seconds"], 3),
        "health_p50_ms": round(percentile(alone, 0.5), 2),
        "health_p99_ms": round(percentile(alone, 0.99), 2),
    }
    print(
        f"| {name} | {found['requests_per_second']:.2f} | {found['tokens_per_second']:.1f} "
        f"| {found['whole_p50_s']:.2f} / {found['whole_p99_s']:.2f} | {found['ttft_p50_ms']:.0f} / {found['ttft_p99_ms']:.0f} "
        f"| {found['whole_requests_per_second']:.2f} "
        f"| {found['health_p50_ms']:.1f} / {found['health_p99_ms']:.1f} | {found['codes'] or 0} |",
        flush=True,
    )
    return found


def main() -> int:
    """Run all and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--prompt", type=int, default=64, help="characters")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--health", type=int, default=200)
    parser.add_argument("--database")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.database:
        commits(args.database)
    print(f"{platform.machine()}, {os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}")
    print(HEADER)
    flags = ["--threads", "1", "--batch", str(args.batch), "--no-access-log"]
    with Process(flags) as process:
        rows = [measure(args, "cpm-gen serve", process.url)]
    ray = "Ray Serve with HAProxy" if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else "Ray Serve"
    for replicas in (1, 2) if args.database else (1,):
        with ray_serve(replicas, args.batch, args.database) as url:
            rows.append(measure(args, f"{ray}, {replicas} replica{'s' * (replicas > 1)}", url))
    if args.json:
        save(rows, args.json)
    return 1 if any(found["failures"] for found in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
