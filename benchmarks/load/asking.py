"""Requests: lengths of prompts and texts, arrival times, and prompts with an exact number of tokens."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from load.http import Server

_TRIES = 200


@dataclass(frozen=True)
class Request:
    """One request of a level."""

    prompt: str
    prompt_tokens: int
    tokens: int
    seed: int

    def body(self, route: str, model: str) -> dict[str, Any]:
        """The body for a route. A prompt longer than the window is truncated at its beginning."""
        shared = {"prompt": self.prompt, "seed": self.seed, "stream": True, "truncate_prompt": True}
        sampling = {"temperature": 0.95, "top_k": 50, "top_p": 0.95}
        if route == "/generate":
            return {**shared, **sampling, "max_new_tokens": self.tokens}
        usage = {"include_usage": True}
        return {**shared, **sampling, "model": model, "max_tokens": self.tokens, "stream_options": usage}


def llmperf(dice: random.Random) -> tuple[int, int]:
    """Tokens of a prompt and its text as in LLMPerf's published runs: normal, 550 by 150 and 150 by 10, redrawn until positive."""
    return _positive(dice, 550, 150), _positive(dice, 150, 10)


def _positive(dice: random.Random, mean: float, deviation: float) -> int:
    while (drawn := int(dice.gauss(mean, deviation))) <= 0:
        pass
    return drawn


def mixed(dice: random.Random) -> tuple[int, int]:
    """Tokens of a prompt and its text as in ``batch.py``: uniform from 20 to 500 and from 50 to 1,500."""
    return dice.randint(20, 500), dice.randint(50, 1500)


LENGTHS: dict[str, Callable[[random.Random], tuple[int, int]]] = {"llmperf": llmperf, "mixed": mixed}


def arrivals(rate: float, count: int, dice: random.Random) -> list[float]:
    """The first ``count`` arrival times of a Poisson process of ``rate`` per second, in seconds."""
    at, times = 0.0, []
    for _ in range(count):
        at += dice.expovariate(rate)
        times.append(at)
    return times


async def cut(text: str, tokens: int, dice: random.Random, count: Callable[[str], Awaitable[int]]) -> str:
    """A random part of ``text`` with exactly ``tokens`` tokens.

    Tokens do not end where characters do. If a part has another number of tokens, its end is moved; if no end fits, another
    part is tried.
    """
    per_token = len(text) / await count(text)
    for _ in range(_TRIES):
        start = dice.randrange(max(1, len(text) - round(1.5 * tokens * per_token)))
        length, seen = max(1, round(tokens * per_token)), set[int]()
        while length not in seen and start + length <= len(text):
            seen.add(length)
            missing = tokens - await count(text[start : start + length])
            if not missing:
                return text[start : start + length]
            length = max(1, length + (round(missing * per_token) or (1 if missing > 0 else -1)))
    raise SystemExit(f"no piece of {len(text)} characters has {tokens} tokens")


async def source(server: Server, opening: str, tokens: int) -> str:
    """Chinese prose to take prompts from. The service writes it; the same model writes the same prose."""
    body = {"prompt": opening, "style": "novel", "max_new_tokens": tokens, "seed": 1, "top_p": 0.95}
    answer = await server.json("POST", "/generate", body)
    return "".join(str(answer["choices"][0]["text"]).split())


async def requests(server: Server, text: str, lengths: str, count: int, seed: int) -> list[Request]:
    """The first ``count`` requests of a seed. A smaller count gives the first of them."""

    async def tokens_of(piece: str) -> int:
        return int((await server.json("POST", "/tokenize", {"text": piece, "style": "plain"}))["count"])

    made = []
    for number in range(count):
        dice = random.Random(f"{seed} {lengths} {number}")
        prompt, tokens = LENGTHS[lengths](dice)
        made.append(Request(await cut(text, prompt, dice, tokens_of), prompt, tokens, number))
    return made
