"""A work in memory while it is written or followed: the current state of its texts, and what is not committed yet."""

from __future__ import annotations

import asyncio
import dataclasses
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

from cpm_gen.outputs import Chunk
from cpm_gen.serving.errors import invalid
from cpm_gen.serving.job import Job
from cpm_gen.serving.request_ids import RequestIds
from cpm_gen.serving.results import StorySight, TokenUsage, sight
from cpm_gen.works.errors import UnreadableWork
from cpm_gen.works.spec import WorkSpec
from cpm_gen.works.storage.records import Lease, State, StoredText, StoredWork, TextPiece
from cpm_gen.works.storage.store import Version

Position = tuple[int, int]  # tokens and characters of a text


class LiveText:
    """One text of a work. current: as it is now; persisted: as the database has it; uncommitted: the pieces between the two."""

    def __init__(self, text: StoredText) -> None:
        self.current = text
        self.persisted = dataclasses.replace(text)
        self.uncommitted: list[TextPiece] = []
        self.job: Job | None = None  # while it waits for a place in the batch, or has one
        self.story: StorySight | None = None  # what this process's last window showed of the story
        self.failures = 0  # of the engine, in a row, before it wrote anything

    def add(self, chunk: Chunk) -> None:
        """Append a chunk that the engine wrote."""
        text = self.current
        self.uncommitted.append(TextPiece(text.tokens, text.chars, chunk.token_ids, chunk.text))
        text.tokens += len(chunk.token_ids)
        text.chars += len(chunk.text)
        text.slides, text.window_start, text.text_start = chunk.slides, chunk.window_start, chunk.text_start
        self.story = sight(chunk)
        if chunk.finish_reason != "cancelled":
            text.finish_reason = chunk.finish_reason
        self.failures = 0

    def written(self, pieces: Sequence[TextPiece], vocabulary: int) -> array[int]:
        """The stored tokens, of which ``pieces`` are all; raises UnreadableWork where some are missing or not in the vocabulary."""
        current, tokens, chars = self.current, array("q"), 0
        for piece in pieces:
            if (piece.token, piece.char) != (len(tokens), chars):
                break
            tokens.extend(piece.token_ids)
            chars += len(piece.text)
        field = f"texts.{current.place}"
        if (len(tokens), chars) != (current.tokens, current.chars):
            raise UnreadableWork(f"the stored text {current.place} is incomplete after {len(tokens)} tokens", field)
        if tokens and max(tokens) >= vocabulary:
            raise UnreadableWork(f"token ids are from 0 to {vocabulary - 1}, not {max(tokens)}", field)
        return tokens

    def committed(self, text: StoredText, count: int) -> None:
        """The database has this state, with the first ``count`` uncommitted pieces."""
        self.persisted = text
        del self.uncommitted[:count]


class LiveWork:
    """A work that its writers and followers share. ``spec`` is None where the work cannot be read; ``problem`` says why.

    lease: under which this process may write it; None: another process may, and this one only reads it. waits_since: the time by the
    database's clock since when it waits for a place, None if it has had one. version: of what was read last without a lease.
    """

    def __init__(self, work: StoredWork, lease: Lease | None) -> None:
        self.lease = lease
        self.waits_since: float | None = None
        self.version: Version | None = None
        self.deleted = False
        self.changed = asyncio.Event()  # set and replaced at every change
        self.lock = asyncio.Lock()  # held while its state is changed
        self.request: RequestIds | None = None  # that created it, if this process did; its log lines name it
        self.load(work)

    def load(self, work: StoredWork) -> None:
        """Take over what the database holds."""
        self.work = work
        self.texts = [LiveText(text) for text in work.texts]
        self.spec: WorkSpec | None = None
        self.problem: UnreadableWork | None = None
        try:
            self.spec = _readable(work)
        except UnreadableWork as error:
            self.problem = error

    @property
    def candidates(self) -> int:
        """How many places of the batch each of its texts takes."""
        return 1 if self.spec is None else self.spec.candidates

    @property
    def id(self) -> str:
        """The id of the work."""
        return self.work.id

    @property
    def state(self) -> str:
        """As clients see it: a queued work with a text in the batch is running, and one that another process holds."""
        if self.deleted:
            return "deleted"
        runs = self.work.held if self.lease is None else any(t.job for t in self.texts)
        return "running" if self.work.state == "queued" and runs else self.work.state

    def may_write(self, text: LiveText) -> bool:
        """Whether a text is to be written here. It is not, if another process took the work, even if this one has it again since."""
        return self.lease is not None and not self.deleted and any(text is current for current in self.texts)

    def set_state(self, state: State, error: Mapping[str, Any] | None = None) -> None:
        """Change the state, in memory only."""
        self.work.state, self.work.error = state, error

    def notify(self) -> None:
        """Wake its followers."""
        self.changed.set()
        self.changed = asyncio.Event()

    def finish_if_complete(self) -> None:
        """Set the state to finished when all texts are."""
        if self.work.state in ("queued", "paused") and all(t.current.finish_reason for t in self.texts):
            self.work.state = "finished"

    def begin(self) -> list[Position]:
        """The position before the first token."""
        return [(0, 0) for _ in self.texts]

    def end(self) -> list[Position]:
        """The position after the last token."""
        return [(t.current.tokens, t.current.chars) for t in self.texts]

    def usage(self, written: int) -> TokenUsage:
        """Tokens of its prompts, each counted once, and tokens written."""
        return TokenUsage(sum(len(text.current.prompt_ids) for text in self.texts if text.current.sample == 0), written)

    def position(self, event_id: str) -> list[Position]:
        """The position that an event's id names; raises ServiceError (invalid) for an id that no event of this work has."""
        try:
            at = [(int(tokens), int(chars)) for tokens, chars in (p.split(":") for p in event_id.split(","))]
        except ValueError:
            at = []
        if not at or len(at) != len(self.texts) or min(map(min, at)) < 0 or max(map(max, at)) > 2**53:
            raise invalid("is not the id of an event of this work", "Last-Event-ID")
        return at


def _readable(work: StoredWork) -> WorkSpec:
    """The spec of a work that can be continued; raises UnreadableWork."""
    if work.damage is not None:
        raise UnreadableWork(work.damage.message, work.damage.field)
    spec = WorkSpec.read(work.parameters)
    if any(text.sample >= spec.n for text in work.texts):
        raise UnreadableWork("the stored texts are more samples than n", "parameters.n")
    return spec


def event_id(at: Sequence[Position]) -> str:
    """Tokens and characters of each text; the same text stands at a position in every process."""
    return ",".join(f"{tokens}:{chars}" for tokens, chars in at)
