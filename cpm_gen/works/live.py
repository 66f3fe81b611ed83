"""A work while somebody writes or follows it: where its texts stand, and what of them is not in the database yet."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from cpm_gen.outputs import Chunk
from cpm_gen.server.schemas.generate import Usage
from cpm_gen.serving.errors import ServiceError, conflict, invalid
from cpm_gen.serving.job import Job
from cpm_gen.works.storage.records import Piece, Text, Work

Position = tuple[int, int]  # tokens and characters of a text


class LiveText:
    """One text of a work. now, kept: as it stands, and as the database has it; tail: what lies between."""

    def __init__(self, now: Text) -> None:
        self.now = now
        self.kept = dataclasses.replace(now)
        self.tail: list[Piece] = []
        self.job: Job | None = None  # while it is in the batch, or waits for a place there
        self.losses = 0  # how often in a row the engine failed before it wrote anything

    def take(self, chunk: Chunk) -> None:
        """Add what was written."""
        now = self.now
        self.tail.append(Piece(now.tokens, now.chars, chunk.token_ids, chunk.text))
        now.tokens += len(chunk.token_ids)
        now.chars += len(chunk.text)
        now.slides, now.window_start, now.text_start = chunk.slides, chunk.window_start, chunk.text_start
        if chunk.finish_reason != "cancelled":
            now.finish_reason = chunk.finish_reason
        self.losses = 0

    def saved(self, kept: Text, count: int) -> None:
        """The database has it as it was, with the first ``count`` pieces of the tail."""
        self.kept = kept
        del self.tail[:count]


class LiveWork:
    """A work, held by its writers and followers."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.texts = [LiveText(text) for text in work.texts]
        self.deleted = False
        self.changed = asyncio.Event()  # set, and made anew, with every change
        self.lock = asyncio.Lock()  # held by who changes its state

    @property
    def id(self) -> str:
        """The work's."""
        return self.work.id

    @property
    def state(self) -> str:
        """As told: a queued work with a text in the batch is running."""
        if self.deleted:
            return "deleted"
        return "running" if self.work.state == "queued" and any(t.job for t in self.texts) else self.work.state

    def notify(self) -> None:
        """Wake its followers."""
        self.changed.set()
        self.changed = asyncio.Event()

    def settle(self) -> None:
        """It is finished when all its texts are."""
        if self.work.state in ("queued", "paused") and all(t.now.finish_reason for t in self.texts):
            self.work.state = "finished"

    def begin(self) -> list[Position]:
        """Before anything was written."""
        return [(0, 0) for _ in self.texts]

    def end(self) -> list[Position]:
        """After all that was written."""
        return [(t.now.tokens, t.now.chars) for t in self.texts]

    def usage(self, written: int) -> Usage:
        """Tokens of its prompts, each counted once, and of its texts."""
        read = sum(len(text.now.prompt_ids) for text in self.texts if text.now.sample == 0)
        return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)

    def position(self, event_id: str) -> list[Position]:
        """What an event's id says; raises ServiceError for one that no event of this work has."""
        try:
            at = [(int(tokens), int(chars)) for tokens, chars in (p.split(":") for p in event_id.split(","))]
        except ValueError:
            at = []
        if len(at) != len(self.texts) or min(map(min, at)) < 0 or max(map(max, at)) > 2**53:
            raise invalid("is not the id of an event of this work", "Last-Event-ID")
        return at


def event_id(at: Sequence[Position]) -> str:
    """Tokens and characters of each text: whatever happens to the process in between, the same text stands there."""
    return ",".join(f"{tokens}:{chars}" for tokens, chars in at)


def wrong_state(live: LiveWork, what: str) -> ServiceError:
    """It cannot be done now."""
    return conflict("wrong_state", f"the work is {live.state}; {what}")


def error_record(error: ServiceError) -> dict[str, str | None]:
    """An error as a work stores it and shows it."""
    return {"code": error.code, "message": error.message, "field": error.field}
