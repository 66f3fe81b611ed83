"""One generation on its way through the service.

A :class:`Job` is shared by two threads. The engine's thread owns the fields from ``writers`` on; the event loop owns the mailbox and
the fields after it. The engine's thread sends :class:`~cpm_gen.outputs.Chunk` and :class:`~cpm_gen.serving.errors.ServiceError`.
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
from cpm_gen.serving.metrics import Metrics
from cpm_gen.serving.request_ids import RequestIds, current_request


@dataclass(eq=False)
class Job:
    """``text.n`` samples for each prompt; ``requests`` has one entry for each sample.

    Args:
        id: a name for logs and results.
        requests: what the engine runs.
        text: style and stop strings; ``text.n`` samples of a prompt stand side by side in ``requests``.
        deadline: when the job ends, by :func:`time.monotonic`; None: never.
        submitted: when the request arrived, by :func:`time.monotonic`.
        own_deadline: the client set the deadline and accepts what was generated until then; otherwise it is the service's limit.
        shown: for a text that resumes, how many of its characters were delivered before.
        request: the request that the job runs for, which its log lines name.
    """

    id: str
    requests: Sequence[Request]
    text: TextOptions
    deadline: float | None = None
    submitted: float = field(default_factory=time.monotonic)
    own_deadline: bool = False
    shown: int | None = None
    request: RequestIds | None = field(default_factory=current_request)

    # owned by the engine's thread
    writers: list[TextStream] = field(default_factory=list)
    ready: deque[Chunk] = field(default_factory=deque)
    last_token: dict[int, float] = field(default_factory=dict)  # time of each sample's newest token
    slides: list[int] = field(default_factory=list)  # how often each sample's window moved
    admitted: float | None = None  # when its first sample entered the batch
    first_token: float | None = None
    timed_out: bool = False

    # owned by the event loop
    mailbox: list[Chunk] = field(default_factory=list)
    failure: ServiceError | None = None
    finished: bool = False
    on_close: Callable[[], None] | None = None  # called once when the client has its result, or cancels
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def samples(self) -> int:
        """The number of texts."""
        return len(self.requests)

    @property
    def places(self) -> int:
        """The number of places of the batch that its texts take: one for each candidate."""
        return sum(request.candidates for request in self.requests)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each prompt counted once."""
        return sum(len(r.prompt) for r in self.requests[:: self.text.n])

    @property
    def generated_tokens(self) -> int:
        """Tokens written by this job, not those of an earlier one that it resumes."""
        return sum(w.generation.step - len(w.generation.request.written) for w in self.writers)

    @property
    def entered(self) -> float | None:
        """When its first sample entered the batch, by :func:`time.monotonic`; also before that sample's first token."""
        return min((at for w in self.writers if (at := w.generation.admitted) is not None), default=None)

    def finish_reasons(self) -> list[str]:
        """Why each text ended; for a job that ended early also ``timeout`` or ``cancelled``."""
        cancelled = "timeout" if self.timed_out else "cancelled"
        ends = [w.generation.finish_reason for w in self.writers]
        return [cancelled if end in (None, "cancelled") else end for end in ends]

    def take_ready(self, now: float, metrics: Metrics) -> list[Chunk]:
        """Take the new chunks and record their metrics. Engine's thread only."""
        chunks = []
        while self.ready:
            chunk = self.ready.popleft()
            chunks.append(chunk)
            at = chunk.place
            if chunk.token_ids:
                metrics.generated_tokens.inc(len(chunk.token_ids))
                if at in self.last_token:
                    # candidates come by sentence: the time of each of its tokens
                    metrics.between_tokens.observe((now - self.last_token[at]) / len(chunk.token_ids))
                else:
                    metrics.first_token.observe(now - self.submitted)
                    admitted = self.writers[at].generation.admitted or now
                    metrics.waiting.observe(admitted - self.submitted)
                    self.admitted = min(self.admitted or admitted, admitted)
                    self.first_token = self.first_token or now
                self.last_token[at] = now
            metrics.slides.inc(chunk.slides - self.slides[at])
            self.slides[at] = chunk.slides
        return chunks

    def deliver(self, chunks: Sequence[Chunk]) -> None:
        """Add chunks to the mailbox. Event loop only."""
        self.mailbox += chunks
        self.arrived.set()

    def finish(self, failure: ServiceError | None = None) -> None:
        """Mark the end; nothing more will arrive. The first call counts. Event loop only."""
        if not self.finished:
            self.failure, self.finished = failure, True
            self.arrived.set()

    async def chunks(self, patience: float | None = None) -> list[Chunk] | None:
        """All chunks since the last call, merged; [] after ``patience`` seconds without one; None at the end.

        Raises the job's failure, after the chunks that arrived before it.
        """
        if not self.mailbox and not self.finished:
            self.arrived.clear()
            try:
                async with asyncio.timeout(patience):
                    await self.arrived.wait()
            except TimeoutError:
                return []
        chunks, self.mailbox = self.mailbox, []
        if chunks:
            return _merged(chunks)
        if self.failure is not None:
            raise self.failure
        return None


def _merged(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Merge the chunks of a text between two moves of its window, so that a slow reader gets fewer, longer ones."""
    parts: dict[tuple[int, int], list[Chunk]] = {}
    for chunk in chunks:
        parts.setdefault((chunk.place, chunk.slides), []).append(chunk)
    return [
        dataclasses.replace(
            part[-1],
            text="".join(c.text for c in part),
            token_ids=tuple(chain.from_iterable(c.token_ids for c in part)),
            likelihoods=tuple(chain.from_iterable(c.likelihoods for c in part)),
            sentences=tuple(chain.from_iterable(c.sentences for c in part)),
        )
        for part in parts.values()
    ]
