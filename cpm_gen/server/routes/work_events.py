"""Events of works as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from cpm_gen.server import errors
from cpm_gen.server.routes.generate import story_event, usage_body
from cpm_gen.server.sse import KEEP_ALIVE, event
from cpm_gen.works.events import FollowingFailed, StateChanged, TextAdded, WindowMoved, WorkEvent, WorkFinished


async def rendered(events: AsyncGenerator[WorkEvent, None]) -> AsyncGenerator[str, None]:
    """Each event as the text of a server-sent event. Closes ``events`` at the end."""
    try:
        async for happened in events:
            yield render(happened)
    finally:
        await events.aclose()


def render(happened: WorkEvent) -> str:
    """One event, with its position as the id."""
    name, data = _content(happened)
    return KEEP_ALIVE if name is None else event(name, data, happened.position)


def _content(happened: WorkEvent) -> tuple[str | None, Any]:
    match happened:
        case StateChanged(state=state, error=error):
            return "state", {"state": state, "error": errors.stored(error)}
        case TextAdded(index=index, text=text, token_ids=token_ids, finish_reason=reason):
            return "token", {"index": index, "text": text, "token_ids": token_ids, "finish_reason": reason}
        case WindowMoved(index=index, start=start, text_start=text_start, slides=slides, story=story):
            moved = {"index": index, "start": start, "text_start": text_start, "slides": slides}
            return "window", moved | story_event(story)
        case WorkFinished():
            return "done", _summary(happened)
        case FollowingFailed(error=error):
            return "error", errors.body(error)
        case _:
            return None, None


def _summary(finished: WorkFinished) -> dict[str, Any]:
    return {
        "id": finished.id,
        "seed": finished.seed,
        "choices": [
            {"index": index, "finish_reason": reason, "window_slides": slides}
            for index, reason, slides in finished.texts
        ],
        "usage": usage_body(finished.usage).model_dump(),
    }
