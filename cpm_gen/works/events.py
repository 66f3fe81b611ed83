"""A work as a stream of events, from any position of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from cpm_gen.server.sse import KEEP_ALIVE, event
from cpm_gen.serving.errors import ServiceError, unavailable
from cpm_gen.works.live import LiveWork, Position, error_record, event_id
from cpm_gen.works.scheduler import Desk


async def follow(desk: Desk, live: LiveWork, at: list[Position], keep_alive: float) -> AsyncGenerator[str, None]:
    """Events until the work is finished or deleted, or the service ends.

    ``at`` may lie ahead of what is written, where a process died after it told more than it had kept: it will be written again.
    """
    told: object = None
    starts = [live.work.parameters["window"]["keep"]] * len(live.texts)
    try:
        while True:
            changed, state = live.changed, (live.state, live.work.error)
            if state != told:
                told = state
                yield event("state", {"state": state[0], "error": state[1]}, event_id(at))
            if state[0] == "deleted":
                return
            for place, text in enumerate(live.texts):
                while pieces := await desk.after(live, text, at[place]):
                    for piece in pieces:
                        at[place] = (piece.end, piece.char + len(piece.text))
                        reason = text.now.finish_reason if piece.end >= text.now.tokens else None
                        content = {"index": place, "text": piece.text, "token_ids": piece.token_ids}
                        yield event("token", content | {"finish_reason": reason}, event_id(at))
                if text.now.window_start != starts[place]:
                    now, starts[place] = text.now, text.now.window_start
                    moved = {"start": now.window_start, "text_start": now.text_start, "slides": now.slides}
                    yield event("window", {"index": place, **moved}, event_id(at))
            if live.state == "finished" and changed is live.changed:
                yield event("done", _summary(live), event_id(at))
                return
            if desk.closing:
                raise unavailable("shutting_down", "the service is shutting down; the work goes on when it is back")
            while not changed.is_set():
                try:
                    async with asyncio.timeout(keep_alive):
                        await changed.wait()
                except TimeoutError:
                    yield KEEP_ALIVE
    except ServiceError as error:
        yield event("error", {"error": error_record(error)}, event_id(at))


def _summary(live: LiveWork) -> Mapping[str, Any]:
    texts = [text.now for text in live.texts]
    return {
        "id": live.id,
        "seed": live.work.parameters["seed"],
        "choices": [{"index": t.place, "finish_reason": t.finish_reason, "window_slides": t.slides} for t in texts],
        "usage": live.usage(sum(t.tokens for t in texts)).model_dump(),
    }
