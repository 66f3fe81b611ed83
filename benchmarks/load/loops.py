"""Clients: one stream and its times, closed loops (clients wait for their responses) and open loops (they do not)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from load.asking import Request
from load.http import Broken, Server


@dataclass
class Outcome:
    """Result of a request. Times from :func:`time.perf_counter`; ``failure`` is a status with its code, or a word."""

    due: float  # when it was sent, or scheduled
    first: float | None = None
    gaps: list[float] = field(default_factory=list)
    ended: float = 0.0
    tokens: int = 0
    failure: str | None = None
    retry_after: float = 0.0


@dataclass(frozen=True)
class Target:
    """Where requests are sent."""

    server: Server
    route: str
    model: str


async def stream(target: Target, request: Request, due: float) -> Outcome:
    """Read a request's stream to its end. An incomplete text is a failure."""
    outcome = Outcome(due)
    try:
        async with target.server.ask("POST", target.route, request.body(target.route, target.model)) as reply:
            if reply.status != 200:
                code = (await reply.json())["error"]["code"]
                outcome.failure = f"{reply.status} {code}"
                outcome.retry_after = float(reply.headers.get("retry-after", 0))
            else:
                last, told = 0.0, None
                async for name, data, _ in reply.events():
                    now = time.perf_counter()
                    if data == "[DONE]":
                        continue
                    event = json.loads(data)
                    if "error" in event:
                        outcome.failure = f"error {event['error']['code']}"
                    elif usage := event.get("usage"):
                        told = usage["completion_tokens"]
                    elif name == "window" or not (event.get("token_ids") or event.get("choices")):
                        continue
                    elif outcome.first is None:
                        outcome.first = now
                    else:
                        outcome.gaps.append(now - last)
                    last = now
                    outcome.tokens += len(event.get("token_ids", ()))
                if target.route != "/generate":  # OpenAI's chunks do not report their number of tokens
                    outcome.tokens = told or 0
                if not outcome.failure and not outcome.tokens == told == request.tokens:
                    outcome.failure = "incomplete"
    except Broken:
        outcome.failure = "broken"
    outcome.ended = time.perf_counter()
    return outcome


async def closed(target: Target, requests: list[Request], clients: int) -> list[Outcome]:
    """Run ``clients`` clients; each sends its next request when the previous response is complete."""
    todo: Iterator[Request] = iter(requests)
    outcomes: list[Outcome] = []

    async def client() -> None:
        for request in todo:
            outcomes.append(outcome := await stream(target, request, time.perf_counter()))
            await asyncio.sleep(outcome.retry_after)

    await asyncio.gather(*(client() for _ in range(clients)))
    return outcomes


async def opened(target: Target, requests: list[Request], times: list[float]) -> list[Outcome]:
    """Send requests at the given seconds, however many are open. Times count from the scheduled time, not the actual one."""
    began = time.perf_counter()

    async def later(request: Request, at: float) -> Outcome:
        await asyncio.sleep(began + at - time.perf_counter())
        return await stream(target, request, began + at)

    return await asyncio.gather(*map(later, requests, times))
