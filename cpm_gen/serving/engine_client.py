"""The engine as the event loop sees it: places are reserved, jobs submitted and cancelled, their chunks delivered.

The model itself lives on a thread (:mod:`cpm_gen.serving.engine_thread`), which carries out commands between two steps and answers with one
call into the event loop after each. Samples of different jobs share the engine's batch; a cancelled job leaves it before the next
step. Waiting and running samples together are bounded by :meth:`EngineLoop.reserve`, and with them the commands.

A job may go on where an earlier one ended, whatever became of the process in between: give its
:class:`~cpm_gen.engine.sequence.Request` the same prompt, parameters, window, seed and ``sample_index``, and as ``written`` the tokens
written so far. The text goes on as if it had not been interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence

from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.serving.engine_thread import EngineThread, News, State, lost
from cpm_gen.serving.errors import ServiceError, rate_limited, unavailable
from cpm_gen.serving.job import Job
from cpm_gen.serving.metrics import Metrics

log = logging.getLogger("cpm_gen.server")


class EngineLoop:
    """One model and its thread. Lives on the event loop."""

    def __init__(
        self,
        load: Callable[[Callable[[str], None]], TextEngine],
        metrics: Metrics,
        *,
        queue: int,
        batch: int,
        stuck_after: float,
        restart: bool,
    ) -> None:
        """``load`` gets a function to call when a rank dies, as :class:`TextEngine` takes it."""
        self._metrics = metrics
        self._room = batch + queue
        self._batch = batch
        self._stuck_after = stuck_after
        self._thread = EngineThread(load, metrics, self, restart=restart)
        self._jobs: set[Job] = set()
        self._scorings: set[asyncio.Future[None]] = set()
        self.state: State = "loading"
        self.error: BaseException | None = None  # why it failed
        self.changed = asyncio.Event()  # set, and made anew, with every change of state
        self.reserved = 0  # samples that wait or run, or whose prompts are being read

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def require(self) -> TextEngine:
        """The loaded model; raises ServiceError (unavailable) where there is none that answers."""
        if self.state == "ready" and self._thread.llm is not None:
            return self._thread.llm
        if self.state == "loading":
            raise unavailable("loading", "the model is being loaded")
        raise unavailable("engine_down", "the engine does not answer", retry_after=30)

    @property
    def answered(self) -> float:
        """When the network last answered, by :func:`time.monotonic`."""
        return self._thread.answered

    @property
    def busy(self) -> int:
        """Jobs and scorings that did not end yet."""
        return len(self._jobs) + len(self._scorings)

    def reserve(self, samples: int) -> None:
        """Take places for so many samples; raises ServiceError (rate_limited) where the queue is full."""
        if self.reserved + samples > self._room:
            wait = min(60, 1 + self.reserved // self._batch)
            raise rate_limited("queue_full", "too many texts wait already; try again later", retry_after=wait)
        self.reserved += samples

    def release(self, samples: int) -> None:
        """Give back places that :meth:`reserve` took and no job uses."""
        self.reserved -= samples

    def submit(self, job: Job) -> None:
        """Queue a job whose places are reserved; they become free when it ends."""
        self._jobs.add(job)
        self._thread.begin(job)

    def cancel(self, job: Job) -> None:
        """Take a job out of the batch before its next token; for one that ended this does nothing."""
        if job in self._jobs:
            self._thread.cancel(job)

    def fail_all(self, failure: ServiceError) -> None:
        """End every job and every scoring with an error."""
        for job in self._jobs:
            job.finish(failure)
            self._thread.cancel(job)
        self._fail_scorings(failure)

    def _fail_scorings(self, failure: ServiceError) -> None:
        for scoring in self._scorings:
            if not scoring.done():
                scoring.set_exception(failure)

    async def score(self, token_ids: Sequence[int]) -> list[float]:
        """Log-probabilities of all tokens but the first, found between steps. Raises the children of CpmGenError, ServiceError."""
        llm = self.require()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        parts: list[float] = []

        def passes() -> Iterator[None]:
            if done.done() or llm is not self._thread.llm:  # what waited for a model that is gone was told so
                return
            for part in llm.scoring(token_ids):
                parts.extend(part)
                yield
                if done.done():
                    return

        def settle(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self._thread.work(passes(), settle)
        self._scorings.add(done)
        try:
            await done
        finally:
            self._scorings.remove(done)
        return parts

    async def watch(self) -> None:
        """For ever: notice a step that does not end. Ticks are counted, not time: a paused process is not stuck."""
        tick = min(1.0, self._stuck_after / 4)
        seen, ticks = None, 0
        while True:
            await asyncio.sleep(tick)
            turn = self._thread.turn
            ticks = ticks + 1 if turn is not None and turn == seen else 0
            seen = turn
            if self.state == "stuck" and not ticks:
                log.info("the engine answers again")
                self.become("ready")
            elif self.state == "ready" and ticks * tick >= self._stuck_after:
                log.error("the engine does not answer: a step takes longer than %s seconds", self._stuck_after)
                self.become("stuck")
                text = "the engine does not answer; what was written before is good"
                self.fail_all(unavailable("engine_stuck", text, retry_after=30))
                if self.kill():
                    log.error("the other ranks were killed")

    async def end(self, grace: float) -> bool:
        """End the thread and the ranks; False where it did not within ``grace`` seconds."""
        self._thread.stop()
        await asyncio.to_thread(self._thread.join, grace)
        return not self._thread.is_alive()

    def kill(self) -> bool:
        """Kill the other ranks, where there are any."""
        with contextlib.suppress(OSError):
            return self._thread.llm is not None and self._thread.llm.kill_ranks()
        return False

    # from the thread

    def become(self, state: State, error: BaseException | None = None) -> None:
        """The engine is in another state; one that failed has lost all jobs, and one that loads again what it was to score."""
        self.state, self.error = state, error
        self._metrics.ready.set(state == "ready")
        self.changed.set()
        self.changed = asyncio.Event()
        if state == "failed":
            self.deliver([(job, (), True, lost()) for job in self._jobs])
        if state in ("failed", "loading"):
            self._fail_scorings(lost())

    def deliver(self, news: Sequence[News]) -> None:
        """Chunks for jobs, and the ends of jobs."""
        for job, chunks, ended, failure in news:
            if chunks:
                job.deliver(chunks)
            if ended and job in self._jobs:
                self._jobs.remove(job)
                self.reserved -= job.samples
                job.finish(failure)
