"""The events of a work, from any position of its texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cpm_gen.serving.errors import ServiceError, unavailable
from cpm_gen.serving.results import StorySight, TokenUsage
from cpm_gen.works.database_thread import DatabaseThread
from cpm_gen.works.live import LiveText, LiveWork, Position, event_id
from cpm_gen.works.scheduler import WorkScheduler
from cpm_gen.works.storage.records import TextPiece
from cpm_gen.works.storage.store import Store

_READ = 64  # pieces that a follower reads at a time


@dataclass(frozen=True, kw_only=True)
class WorkEvent:
    """Something that happened. position: the id of the event, from which another follower can continue."""

    position: str


@dataclass(frozen=True, kw_only=True)
class StateChanged(WorkEvent):
    """The state, first as it is, then at every change. error: code, message and field."""

    state: str
    error: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class TextAdded(WorkEvent):
    """A part of the text ``index``; finish_reason with its last part."""

    index: int
    text: str
    token_ids: Sequence[int]
    finish_reason: str | None


@dataclass(frozen=True, kw_only=True)
class WindowMoved(WorkEvent):
    """The window of the text ``index`` moved, or shows other parts of the story.

    start and text_start as in :class:`~cpm_gen.works.views.TextView`.
    """

    index: int
    start: int
    text_start: int
    slides: int
    story: StorySight | None = None


@dataclass(frozen=True, kw_only=True)
class WorkFinished(WorkEvent):
    """All texts are finished; the last event. texts: index, finish_reason and window slides of each."""

    id: str
    seed: int | None
    texts: Sequence[tuple[int, str | None, int]]
    usage: TokenUsage


@dataclass(frozen=True, kw_only=True)
class FollowingFailed(WorkEvent):
    """The events end here with an error, though the work may continue."""

    error: ServiceError


@dataclass(frozen=True, kw_only=True)
class Idle(WorkEvent):
    """Nothing happened for the keep-alive interval."""


async def follow(
    scheduler: WorkScheduler,
    store: Store,
    database: DatabaseThread,
    live: LiveWork,
    at: list[Position],
    keep_alive: float,
) -> AsyncGenerator[WorkEvent, None]:
    """Events until the work is finished or deleted, or the service ends.

    ``at`` may be ahead of the stored texts if a process was killed before its last commit; those tokens are generated again and not
    reported twice.
    """
    reported: object = None
    places: list[tuple[int, StorySight | None]]
    places = [(live.spec.window.keep if live.spec else 0, None)] * len(live.texts)
    try:
        while True:
            changed, state = live.changed, (live.state, live.work.error)
            if state != reported:
                reported = state
                yield StateChanged(position=event_id(at), state=state[0], error=state[1])
            if state[0] == "deleted":
                return
            for index, text in enumerate(live.texts[: len(at)]):
                while pieces := await _after(store, database, live, text, at[index]):
                    for piece in pieces:
                        at[index] = (piece.end, piece.char + len(piece.text))
                        yield TextAdded(
                            position=event_id(at),
                            index=index,
                            text=piece.text,
                            token_ids=piece.token_ids,
                            finish_reason=text.current.finish_reason if piece.end >= text.current.tokens else None,
                        )
                place = text.current.window_start, text.story
                if place != places[index]:
                    current, places[index] = text.current, place
                    yield WindowMoved(
                        position=event_id(at),
                        index=index,
                        start=current.window_start,
                        text_start=current.text_start,
                        slides=current.slides,
                        story=text.story,
                    )
            if live.state == "finished" and changed is live.changed:
                yield _finished(live, event_id(at))
                return
            if scheduler.closing:
                raise unavailable("shutting_down", "the service is shutting down; the work continues when it is back")
            while not changed.is_set():
                try:
                    async with asyncio.timeout(keep_alive):
                        await changed.wait()
                except TimeoutError:
                    yield Idle(position=event_id(at))
    except ServiceError as error:
        yield FollowingFailed(position=event_id(at), error=error)


async def _after(
    store: Store, database: DatabaseThread, live: LiveWork, text: LiveText, at: Position
) -> list[TextPiece]:
    """Some pieces of a text after a position; none at its end."""
    token, char = at
    if token < text.persisted.tokens:
        pieces = await database.run_in_db(store.read, live.id, text.current.place, token, _READ)
    else:
        pieces = list(text.uncommitted)
    pieces = [piece for piece in pieces if piece.end > token]
    if pieces and pieces[0].token < token:
        pieces[0] = pieces[0].after(token, char)
    return pieces


def _finished(live: LiveWork, position: str) -> WorkFinished:
    texts = [text.current for text in live.texts]
    return WorkFinished(
        position=position,
        id=live.id,
        seed=live.spec.seed if live.spec else None,
        texts=[(t.place, t.finish_reason, t.slides) for t in texts],
        usage=live.usage(sum(t.tokens for t in texts)),
    )
