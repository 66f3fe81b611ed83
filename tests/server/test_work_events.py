"""Events of works as server-sent events."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from cpm_gen.server.routes.work_events import render, rendered
from cpm_gen.serving.errors import unavailable
from cpm_gen.serving.results import TokenUsage
from cpm_gen.works.events import (
    FollowingFailed,
    Idle,
    StateChanged,
    TextAdded,
    WindowMoved,
    WorkEvent,
    WorkFinished,
)

ERROR = {"code": "c", "message": "m", "field": None}
USAGE = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
FINISHED = WorkFinished(position="9:8", id="work-1", seed=7, texts=[(0, "length", 1)], usage=TokenUsage(3, 9))


@pytest.mark.parametrize(
    ("event", "name", "data"),
    [
        (StateChanged(position="0:0", state="paused", error=ERROR), "state", {"state": "paused", "error": ERROR}),
        (
            TextAdded(position="1:2", index=0, text="春\n风", token_ids=(5,), finish_reason=None),
            "token",
            {"index": 0, "text": "春\n风", "token_ids": [5], "finish_reason": None},
        ),
        (
            WindowMoved(position="9:8", index=1, start=4, text_start=3, slides=2),
            "window",
            {"index": 1, "start": 4, "text_start": 3, "slides": 2},
        ),
        (
            FINISHED,
            "done",
            {
                "id": "work-1",
                "seed": 7,
                "choices": [{"index": 0, "finish_reason": "length", "window_slides": 1}],
                "usage": USAGE,
            },
        ),
        (
            FollowingFailed(position="1:2", error=unavailable("shutting_down", "m")),
            "error",
            {"error": ERROR | {"code": "shutting_down"}},
        ),
    ],
)
def test_an_event_has_its_position_a_name_and_one_line_of_data(event: WorkEvent, name: str, data: object):
    lines = render(event).split("\n")
    assert lines[:2] == [f"id: {event.position}", f"event: {name}"]
    assert json.loads(lines[2].removeprefix("data: ")) == data
    assert lines[3:] == ["", ""]


def test_silence_is_a_comment():
    assert render(Idle(position="1:2")).startswith(":")


def test_closing_a_stream_closes_the_events_behind_it():
    closed = []

    async def events() -> AsyncGenerator[WorkEvent, None]:
        try:
            while True:
                yield Idle(position="0:0")
        finally:
            closed.append(True)

    async def run() -> None:
        stream = rendered(events())
        await anext(stream)
        await stream.aclose()

    asyncio.run(run())
    assert closed == [True]
