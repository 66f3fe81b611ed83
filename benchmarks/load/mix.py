"""Clients for the soak: they read responses, send errors, disconnect at random, and count what they saw."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from load import works
from load.http import Broken, Server

_BAD: list[tuple[int, str, str, Any]] = [
    (400, "POST", "/generate", b'{"prompt": "'),
    (422, "POST", "/generate", {"prompt": "从前", "max_new_tokens": 0}),
    (422, "POST", "/generate", {"prompt": "从前", "max_new_tokens": 10**6}),
    (422, "POST", "/generate", {"prompt": "从前", "temperature": "hot"}),
    (422, "POST", "/generate", {"prompt": "天地玄黄宇宙洪荒" * 400}),
    (422, "POST", "/generate", {"prompt": ["春"] * 17}),
    (400, "POST", "/v1/completions", {"model": "cpm-embedded", "prompt": "从前", "suffix": "后来"}),
    (404, "POST", "/v1/completions", {"model": "another", "prompt": "从前"}),
    (422, "POST", "/score", {}),
    (422, "POST", "/detokenize", {"token_ids": [-1]}),
    (404, "GET", "/nowhere", None),
    (405, "DELETE", "/generate", None),
    (413, "POST", "/tokenize", b" " * (2**21 + 1)),
]


@dataclass
class Tally:
    """Counts by the clients: requests, texts and tokens that the service must have written, and errors found."""

    sent: int = 0  # requests
    begun: int = 0  # texts
    perhaps: int = 0  # texts whose client left before it knew whether they began
    tokens: int = 0  # of texts read to their end
    seen: int = 0  # of texts whose client left
    most: int = 0  # upper bound for those
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Mix:
    """The actions of a client, one method each; ``turns`` has their weights."""

    def __init__(self, server: Server, model: str, text: str, dice: random.Random) -> None:
        self.server = server
        self.model = model
        self.text = text
        self.dice = dice
        self.tally = Tally()
        self.turns: dict[Callable[[], Awaitable[None]], int] = {
            self.whole: 4, self.streamed: 6, self.left: 8, self.given_up: 3, self.timed: 2, self.openai: 2,
            self.scored: 2, self.tokenised: 3, self.mistaken: 4, self.half: 1, self.garbled: 1, self.looked: 1,
            self.work: 3,
        }  # fmt: skip

    async def client(self, until: float) -> None:
        """Run one client until ``until`` (monotonic seconds)."""
        while time.monotonic() < until:
            turn = self.dice.choices(list(self.turns), list(self.turns.values()))[0]
            try:
                async with asyncio.timeout(600):
                    await turn()
            except (Broken, OSError, AssertionError, KeyError, ValueError) as error:
                self.tally.wrong.append(f"{turn.__name__}: {type(error).__name__} {error}")
            self.tally.done[turn.__name__] += 1

    def prompt(self) -> str:
        """A random part of the text."""
        start = self.dice.randrange(len(self.text) - 300)
        return self.text[start : start + self.dice.randint(1, 300)]

    def body(self, **more: Any) -> dict[str, Any]:
        """The body of a request for one to six texts of up to 300 tokens."""
        body = {"prompt": [self.prompt() for _ in range(self.dice.randint(1, 2))], "n": self.dice.randint(1, 3)}
        body |= {"max_new_tokens": self.dice.randint(1, 300), "style": self.dice.choice(["novel", "lyric", "plain"])}
        if self.dice.random() < 0.3:
            body["window"] = {"hop": self.dice.choice([16, 100, 255]), "boundary": "sentence"}
        if self.dice.random() < 0.2:
            body["stop"] = ["。"]
        return body | more

    @contextlib.asynccontextmanager
    async def ask(self, method: str, path: str, body: Any = None, *expected: int) -> Any:
        """Send a request and check its status; yields None after a 429."""
        async with self.server.ask(method, path, body) as reply:
            if reply.status == 429:
                self.tally.done["no room"] += 1
                yield None
                await asyncio.sleep(0.2)
            else:
                assert reply.status in (expected or (200,)), f"{method} {path}: {reply.status} {await reply.body()!r}"
                yield reply

    async def whole(self) -> None:
        body = self.body()
        async with self.ask("POST", "/generate", body) as reply:
            if reply:
                self.written(body, await reply.json())

    async def timed(self) -> None:
        body = self.body(timeout=self.dice.uniform(0.02, 0.5))
        async with self.ask("POST", "/generate", body) as reply:
            if reply:
                self.written(body, await reply.json())

    def written(self, body: dict[str, Any], answer: Any) -> None:
        """Count texts that were received completely."""
        assert len(answer["choices"]) == _samples(body), "not as many texts as asked for"
        self.tally.begun += _samples(body)
        self.tally.tokens += answer["usage"]["completion_tokens"]

    async def streamed(self) -> None:
        body = self.body(stream=True)
        count, last, answer = 0, "", {}
        async with self.ask("POST", "/generate", body) as reply:
            if not reply:
                return
            async for name, data, _ in reply.events():
                last, answer = name, json.loads(data)
                count += len(answer.get("token_ids", ()))
        assert last == "done", f"a stream ended with {last} {answer}"
        assert count == answer["usage"]["completion_tokens"], "a stream without some of its tokens"
        self.written(body, answer)

    async def left(self) -> None:
        body = self.body(stream=True, max_new_tokens=self.dice.randint(100, 8000))
        async with self.ask("POST", "/generate", body) as reply:
            if not reply:
                return
            self.tally.begun += _samples(body)
            self.tally.most += _samples(body) * body["max_new_tokens"]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.dice.uniform(0, 2)):
                    async for _, data, _ in reply.events():
                        self.tally.seen += len(json.loads(data).get("token_ids", ()))

    async def given_up(self) -> None:
        body = self.body(max_new_tokens=self.dice.randint(100, 8000))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.dice.uniform(0, 1)), self.ask("POST", "/generate", body) as reply:
                if reply:
                    self.written(body, await reply.json())
                return
        self.tally.perhaps += _samples(body)
        self.tally.most += _samples(body) * body["max_new_tokens"]

    async def openai(self) -> None:
        most = self.dice.randint(1, 200)
        body = {"model": self.model, "prompt": self.prompt(), "max_tokens": most, "stream": self.dice.random() < 0.5}
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        elif self.dice.random() < 0.5:
            body["logprobs"] = 3
        async with self.ask("POST", "/v1/completions", body) as reply:
            if not reply:
                return
            if body["stream"]:
                parts = [data async for _, data, _ in reply.events()]
                assert parts[-1] == "[DONE]", f"a stream ended with {parts[-1]}"
                answer = json.loads(parts[-2])
            else:
                answer = await reply.json()
        self.tally.begun += 1
        self.tally.tokens += answer["usage"]["completion_tokens"]

    async def scored(self) -> None:
        async with self.ask("POST", "/score", {"text": self.prompt() * self.dice.randint(1, 5)}) as reply:
            if reply:
                assert (await reply.json())["logprobs"][0] is None

    async def tokenised(self) -> None:
        async with self.ask("POST", "/tokenize", {"text": self.prompt()}) as reply:
            ids = (await reply.json())["token_ids"]
        async with self.ask("POST", "/detokenize", {"token_ids": ids}) as reply:
            await reply.json()

    async def mistaken(self) -> None:
        status, method, path, body = self.dice.choice(_BAD)
        async with self.ask(method, path, body, status) as reply:
            assert not reply or "error" in await reply.json()

    async def looked(self) -> None:
        for path in ("/metrics", "/health/ready", "/openapi.json"):
            async with self.ask("GET", path) as reply:
                await reply.body()

    async def work(self) -> None:
        await works.live(self)

    async def endless(self, until: float) -> None:
        """Run one endless work beside all turns."""
        try:
            await works.endless(self, until)
        except (Broken, OSError, AssertionError, KeyError, ValueError) as error:
            self.tally.wrong.append(f"endless: {type(error).__name__} {error}")

    async def half(self) -> None:
        """Send part of a request, then nothing."""
        await self.raw(b'POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 90\r\n\r\n{"prompt": "')
        self.server.sent += 1

    async def garbled(self) -> None:
        await self.raw(self.dice.randbytes(200) + b"\r\n\r\n")

    async def raw(self, content: bytes) -> None:
        """Send bytes and disconnect."""
        _, writer = await asyncio.open_connection(self.server.host, self.server.port)
        writer.write(content)
        await asyncio.sleep(self.dice.uniform(0, 0.3))
        writer.close()


def _samples(body: dict[str, Any]) -> int:
    return len(body["prompt"]) * int(body["n"])
