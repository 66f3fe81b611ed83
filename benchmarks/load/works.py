"""A work from the client's side: create, follow, lose the connection, follow again, pause, resume, read, delete."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from load.mix import Mix

_LOST = 100  # tokens of a text that may be written but not committed when it is stopped; they are written again
_TURN = 60  # seconds that a text of a work stays in the batch while others wait
_ENDLESS = 20_000  # more than an endless text writes before it is deleted


class Follower:
    """What a client has received of a work, over all its connections."""

    def __init__(self, texts: int) -> None:
        self.texts = [""] * texts
        self.ids: list[list[int]] = [[] for _ in range(texts)]
        self.last: str | None = None
        self.done = False

    async def follow(self, mix: Mix, id: str, seconds: float) -> None:
        """Read from the last event on, for ``seconds`` or to the end."""
        headers = {"Last-Event-ID": self.last} if self.last else {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds), mix.server.ask("GET", f"/works/{id}/events", None, headers) as reply:
                assert reply.status in (200, 204), f"events: {reply.status}"
                self.done = reply.status == 204
                async for name, data, self.last in reply.events():
                    event = json.loads(data)
                    assert name != "error", f"events: {data}"
                    if name == "token":
                        self.texts[event["index"]] += event["text"]
                        self.ids[event["index"]] += event["token_ids"]
                    self.done = self.done or name == "done"


async def live(mix: Mix) -> None:
    """Run one work from creation to deletion. Its text must equal the text of its events."""
    dice, tally = mix.dice, mix.tally
    body = mix.body(n=1, max_new_tokens=dice.choice([dice.randint(1, 150), dice.randint(1, 150), None]))
    texts = len(body["prompt"])
    async with mix.ask("POST", "/works", body, 201) as reply:
        if not reply:
            return
        id = (await reply.json())["id"]
    follower = Follower(texts)
    most = body["max_new_tokens"] or _ENDLESS
    for _ in range(dice.randint(0, 3)):
        await follower.follow(mix, id, dice.uniform(0, 2))
        if dice.random() < 0.4:
            async with mix.ask("POST", f"/works/{id}/pause", None, 200, 409) as reply:
                paused = reply.status == 200
            async with mix.ask("POST", f"/works/{id}/resume", None, 200 if paused else 409):
                pass
            tally.perhaps += texts
            tally.most += texts * _LOST
    whole = body["max_new_tokens"] is not None and dice.random() < 0.7
    if whole:
        for turn in range(2):
            while not follower.done:
                await follower.follow(mix, id, 120)
            if turn == 0 and dice.random() < 0.3:
                more = dice.randint(1, 100)
                async with mix.ask("POST", f"/works/{id}/continue", {"max_new_tokens": more}):
                    follower.done = False
                tally.begun += texts
                most += more
        async with mix.ask("GET", f"/works/{id}?token_ids=true") as reply:
            work = await reply.json()
        _same(follower, work)
        async with mix.ask("GET", "/works?limit=5"):
            pass
    written = sum(map(len, follower.ids))
    if whole:
        tally.begun += texts
        tally.tokens += written
    else:
        tally.perhaps += texts
        tally.seen += written
        tally.most += texts * most
    async with mix.ask("DELETE", f"/works/{id}", None, 204):
        pass
    async with mix.ask("GET", f"/works/{id}", None, 404):
        pass


async def endless(mix: Mix, until: float) -> None:
    """Run one endless work until ``until``, then pause and delete it."""
    body = {"prompt": mix.prompt(), "max_new_tokens": None, "stop_at_eod": False}
    id, began = None, time.monotonic()
    while id is None:
        async with mix.ask("POST", "/works", body, 201) as reply:
            id = (await reply.json())["id"] if reply else None
    await asyncio.sleep(max(0.0, until - time.monotonic()))
    async with mix.ask("POST", f"/works/{id}/pause") as reply:
        work = await reply.json()
    async with mix.ask("DELETE", f"/works/{id}", None, 204):
        pass
    written, turns = work["usage"]["completion_tokens"], 2 + int((time.monotonic() - began) / _TURN)
    assert written, "the work without an end was not written"
    mix.tally.perhaps += turns
    mix.tally.seen += written
    mix.tally.most += written + turns * _LOST


def _same(follower: Follower, work: dict[str, Any]) -> None:
    """Check that the events of all connections give the text: nothing twice, nothing missing."""
    assert work["state"] == "finished", f"a work that is done is {work['state']}"
    for choice, text, ids in zip(work["choices"], follower.texts, follower.ids, strict=True):
        assert choice["text"] == text, f"{work['id']}: events said another text"
        assert choice["token_ids"] == ids, f"{work['id']}: events had other tokens"
