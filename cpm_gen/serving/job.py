"""A client's generation on its way through the service: asked for on the event loop, written on the engine's thread.

:class:`Job` belongs to both. The engine's thread owns what begins with ``writers``; the event loop owns the mailbox and
everything after it. Between them go :class:`~cpm_gen.outputs.Chunk` and :class:`~cpm_gen.serving.errors.ServiceError`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

from cpm_gen.config.options import TextOptions
from cpm_gen.engine.sequence import Request
from cpm_gen.outputs import Chunk
from cpm_gen.runtime.text_stream import TextStream
from cpm_gen.serving.errors import ServiceError


@dataclass(eq=False)
class Job:
    """``text.n`` samples for each prompt, of which ``requests`` says everything.

    shown: of a text that goes on, how many characters were given out before.
    deadline: by :func:`time.monotonic`; ours, or (``own_deadline``) the client's, who then wants what there is.
    """

    id: str
    requests: Sequence[Request]
    text: TextOptions
    deadline: float | None = None
    asked: float = field(default_factory=time.monotonic)
    own_deadline: bool = False
    shown: int | None = None

    # the engine's thread
    writers: list[TextStream] = field(default_factory=list)
    ready: deque[Chunk] = field(default_factory=deque)
    last: dict[int, float] = field(default_factory=dict)  # when a sample's newest token came
    slides: list[int] = field(default_factory=list)  # how often each sample's window moved
    began: float | None = None  # when the first of its samples got a place in the batch
    first_token: float | None = None
    timed_out: bool = False

    # the event loop
    mailbox: list[Chunk] = field(default_factory=list)
    failure: ServiceError | None = None
    finished: bool = False
    left: Callable[[], None] | None = None  # what to do when its client is served
    news: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def samples(self) -> int:
        """How many texts it writes."""
        return len(self.requests)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all its prompts, each counted once."""
        return sum(len(r.prompt) for r in self.requests[:: self.text.n])

    def deliver(self, chunks: Sequence[Chunk]) -> None:
        """On the event loop: chunks arrive."""
        self.mailbox += chunks
        self.news.set()

    def finish(self, failure: ServiceError | None = None) -> None:
        """On the event loop: nothing more will arrive."""
        if not self.finished:
            self.failure, self.finished = failure, True
            self.news.set()

    async def chunks(self, patience: float | None = None) -> list[Chunk] | None:
        """All that arrived since the last call, joined; [] after ``patience`` seconds of silence, None at the end.

        Raises the job's failure after what arrived before it.
        """
        if not self.mailbox and not self.finished:
            self.news.clear()
            try:
                async with asyncio.timeout(patience):
                    await self.news.wait()
            except TimeoutError:
                return []
        chunks, self.mailbox = self.mailbox, []
        if chunks:
            return _joined(chunks)
        if self.failure is not None:
            raise self.failure
        return None


def _joined(chunks: Sequence[Chunk]) -> list[Chunk]:
    """What a text wrote between two moves of its window as one chunk: a reader who is slow gets fewer, larger ones."""
    parts: dict[tuple[int, int], list[Chunk]] = {}
    for chunk in chunks:
        parts.setdefault((chunk.place, chunk.slides), []).append(chunk)
    return [
        dataclasses.replace(
            part[-1],
            text="".join(c.text for c in part),
            token_ids=tuple(chain.from_iterable(c.token_ids for c in part)),
            likelihoods=tuple(chain.from_iterable(c.likelihoods for c in part)),
        )
        for part in parts.values()
    ]
