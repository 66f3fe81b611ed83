"""Soak: a mix of all requests for a while, then a check for leaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import time
from collections import Counter, deque
from typing import Any

from load.asking import source
from load.http import Server
from load.mix import Mix, Tally
from load.process import Process, Reading

CLIENTS = 20
SETTLE = 60.0  # maximum seconds until a service without requests is idle
IDLE = {
    "cpm_queue_depth": 0,
    "cpm_running_sequences": 0,
    "cpm_kv_slots_used": 0,
    "cpm_open_requests": 1,
}  # the request for the metrics


def parse(exposition: str) -> Counter[str]:
    """Each metric's name and the sum of its samples."""
    found: Counter[str] = Counter()
    for name, value in re.findall(r"^(\w+)(?:{.*})? (\S+)$", exposition, re.MULTILINE):
        found[name] += float(value)
    return found


async def settled(server: Server) -> Counter[str]:
    """The metrics once the service is idle, or after ``SETTLE`` seconds."""
    deadline = time.monotonic() + SETTLE
    while True:
        async with server.ask("GET", "/metrics") as reply:
            metrics = parse((await reply.body()).decode())
        if all(metrics[name] == value for name, value in IDLE.items()) or time.monotonic() > deadline:
            return metrics
        await asyncio.sleep(0.2)


async def hold(server: Server, count: int) -> None:
    """Keep ``count`` connections open that send nothing, and replace the oldest all the time, until cancelled.

    500 a second are new: a service that keeps 1,088 closes the one that has been idle longest after two seconds.
    """
    loop = asyncio.get_running_loop()
    held: deque[socket.socket] = deque()
    try:
        while True:
            for _ in range(50 if len(held) == count else 500):
                if len(held) == count:
                    held.popleft().close()
                connection = socket.socket()
                connection.setblocking(False)
                held.append(connection)
                await loop.sock_connect(connection, (server.host, server.port))
            await asyncio.sleep(0.1)
    finally:
        for connection in held:
            connection.close()


async def rest(process: Process) -> Reading:
    """A reading of the idle process. The connection of the last metrics request takes a moment to close."""
    readings = []
    for _ in range(10):
        await asyncio.sleep(0.1)
        readings.append(process.read())
    return min(readings, key=lambda r: (r.files, r.threads))


def verdict(tally: Tally, before: Counter[str], after: Counter[str], series: list[Reading], log: str) -> list[str]:
    """Problems found between two moments at which the service was idle."""
    grown = {name: after[name] - before[name] for name in after}
    found = list(dict.fromkeys(tally.wrong))
    for when, metrics in (("warm", before), ("at the end", after)):
        found += [f"{when}, {name} is {metrics[name]:g}, not {v}" for name, v in IDLE.items() if metrics[name] != v]

    def between(name: str, low: int, high: int) -> None:
        if not low <= grown[name] <= high:
            found.append(f"{name} grew by {grown[name]:g}; the clients know of {low}" + f" to {high}" * (low != high))

    between("cpm_requests_total", tally.sent, tally.sent)
    between("cpm_samples_total", tally.begun, tally.begun + tally.perhaps)
    between("cpm_generated_tokens_total", tally.tokens + tally.seen, tally.tokens + tally.most)
    if "Traceback" in log:
        found.append("a traceback in the log:\n" + log[log.index("Traceback") :][:2000])
    # asyncio's thread pool grows up to this size under load and keeps its threads
    if series[-1].threads > series[0].threads + min(32, (os.cpu_count() or 1) + 4):
        found.append(f"{series[0].threads} threads when it was warm and idle, {series[-1].threads} at the end")
    if series[-1].files > series[0].files:
        found.append(f"{series[0].files} open files when it was warm and idle, {series[-1].files} at the end")
    early, late = _memory(series, 0.25, 0.5), _memory(series, 0.75, 1.0)
    if late > early * 1.02 + 8:
        found.append(f"{early:.0f} MB in the second quarter of the time, {late:.0f} MB in the last")
    return found


def _memory(series: list[Reading], start: float, end: float) -> float:
    part = series[round(start * len(series)) : round(end * len(series))]
    return sum(reading.rss_mb for reading in part) / len(part)


async def soak(process: Process, seconds: float, opening: str, seed: int, idle: int = 0) -> dict[str, Any]:
    """Warm up for a quarter of the time, then run for all of it, beside ``idle`` connections that send nothing.

    Returns a row; its ``problems`` should be empty.
    """
    server = Server(process.url)
    model = (await server.json("GET", "/health/ready"))["model"]
    mix = Mix(server, model, await source(server, opening, 2000), random.Random(seed))

    async def go(time_: float) -> None:
        until = time.monotonic() + time_
        await asyncio.gather(mix.endless(until), *(mix.client(until) for _ in range(CLIENTS)))

    await go(seconds / 4)
    before = await settled(server)
    # a metrics request is counted after its response: this one counts from here on, the last one does not
    mix.tally, sent = Tally(wrong=mix.tally.wrong), server.sent
    series = [await rest(process)]

    async def watch() -> None:
        while True:
            await asyncio.sleep(max(0.5, seconds / 100))
            series.append(process.read())

    watching = asyncio.create_task(watch())
    holding = asyncio.create_task(hold(server, idle)) if idle else None
    await go(seconds)
    watching.cancel()
    if holding is not None:
        holding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await holding  # raises what it died of
    after = await settled(server)
    mix.tally.sent = server.sent - sent
    series.append(await rest(process))
    problems = verdict(mix.tally, before, after, series, process.log())
    return {
        "model": model,
        "seconds": seconds,
        "idle": idle,
        "turns": dict(mix.tally.done),
        "requests": mix.tally.sent,
        "texts": int(after["cpm_samples_total"] - before["cpm_samples_total"]),
        "tokens": int(after["cpm_generated_tokens_total"] - before["cpm_generated_tokens_total"]),
        "series": [vars(reading) for reading in series],
        "problems": problems,
        "failures": len(problems),
    }
