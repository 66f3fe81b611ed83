"""The event loop's side of the engine: reserve places, submit and cancel jobs, deliver their chunks.

The model runs on a thread (:mod:`cpm_gen.serving.engine_thread`), which executes commands between two steps and calls into the event
loop once after each step. Samples of different jobs share the engine's batch; a cancelled job leaves it before the next step.
:meth:`EngineClient.reserve` bounds the waiting and running samples and candidates together, and with them the queue of commands.

A job can resume where an earlier one ended, also in another process: give its :class:`~cpm_gen.engine.sequence.Request` the same
prompt, parameters, window, seed and ``sample_index``, and the tokens generated so far as ``written``. The text continues as if it had
not been interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence

from cpm_gen.errors import CpmGenError
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.sampling.logprobs import TopCollector
from cpm_gen.serving.engine_thread import EngineState, EngineThread, StepResults, engine_lost
from cpm_gen.serving.errors import ServiceError, rate_limited, unavailable
from cpm_gen.serving.job import Job
from cpm_gen.serving.metrics import Metrics
from cpm_gen.serving.request_ids import working_for

log = logging.getLogger("cpm_gen.serving")


class EngineClient:
    """One model and its thread. All methods run on the event loop."""

    def __init__(
        self,
        load: Callable[[Callable[[str], None]], TextEngine],
        metrics: Metrics,
        *,
        queue: int,
        batch: int,
        stuck_after: float,
        restart: bool,
        record: Callable[[Job, ServiceError | None], None] = lambda job, failure: None,
    ) -> None:
        """``load`` gets the function to call when a rank dies, as :class:`TextEngine` takes it.

        capacity: most places of texts that wait or run. record: called at the end of each job.
        """
        self._metrics = metrics
        self.capacity = batch + queue
        self._batch = batch
        self._record = record
        self._stuck_after = stuck_after
        self._thread = EngineThread(load, metrics, self, restart=restart)
        self._jobs: set[Job] = set()
        self._scorings: set[asyncio.Future[None]] = set()
        self._probe: asyncio.Task[bool] | None = None
        self.state: EngineState = "loading"
        self.error: BaseException | None = None  # why it failed
        self.changed = asyncio.Event()  # set, and replaced, at every change of state
        self.reserved = 0  # places of samples that wait, run, or are being encoded

    def start(self) -> None:
        """Start to load the model."""
        self._thread.start()

    def require(self) -> TextEngine:
        """The loaded model. Raises ServiceError (unavailable) while it loads or does not answer."""
        if self.state == "ready" and self._thread.llm is not None:
            return self._thread.llm
        if self.state == "loading":
            raise unavailable("loading", "the model is being loaded")
        raise unavailable("engine_down", "the engine does not answer", retry_after=30)

    async def answers(self, seconds: float) -> bool:
        """Whether the network ran in the last ``seconds``; if it was idle, whether it scores a token within as many."""
        llm = self.require()
        if time.monotonic() - self._thread.last_answer < seconds:
            return True
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._score_one(llm))
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(self._probe)
        except TimeoutError:
            return False

    async def _score_one(self, llm: TextEngine) -> bool:
        try:
            await self.score([0, 0])
        except (CpmGenError, ServiceError):
            return False
        return True

    @property
    def busy(self) -> int:
        """Number of jobs and scorings that have not ended."""
        return len(self._jobs) + len(self._scorings)

    def needs_more_than(self, places: int) -> bool:
        """Whether a request that has not ended takes more than ``places`` places of the batch for one text."""
        return any(r.candidates > places for job in self._jobs if job.shown is None for r in job.requests)

    def reserve(self, places: int) -> None:
        """Reserve places, one for each candidate of a sample. Raises ServiceError (rate_limited) if the queue is full."""
        if self.reserved + places > self.capacity:
            wait = min(60, 1 + self.reserved // self._batch)
            raise rate_limited("queue_full", "too many texts wait already; try again later", retry_after=wait)
        self.reserved += places

    def release(self, places: int) -> None:
        """Give back places of :meth:`reserve` that no job uses."""
        self.reserved -= places

    def submit(self, job: Job) -> None:
        """Queue a job whose places are reserved. They are released when it ends."""
        self._jobs.add(job)
        self._thread.begin(job)

    def cancel(self, job: Job) -> None:
        """Remove a job from the batch before its next token. Does nothing for a job that ended."""
        if job in self._jobs:
            self._thread.cancel(job)

    def fail_all(self, failure: ServiceError) -> None:
        """End every job and every scoring with an error."""
        for job in self._jobs:
            self._finish(job, failure)
            self._thread.cancel(job)
        self._fail_scorings(failure)

    def _fail_scorings(self, failure: ServiceError) -> None:
        for scoring in self._scorings:
            if not scoring.done():
                scoring.set_exception(failure)

    async def score(self, token_ids: Sequence[int], top: TopCollector | None = None) -> list[float]:
        """Log-probabilities of all tokens but the first, computed between steps. Raises the children of CpmGenError, ServiceError.

        top: gets the most probable tokens in the place of each scored token.
        """
        llm = self.require()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        parts: list[float] = []

        def passes() -> Iterator[None]:
            if done.done() or llm is not self._thread.llm:  # cancelled, or failed together with its model
                return
            for part in llm.scoring(token_ids, top=top):
                parts.extend(part)
                yield
                if done.done():
                    return

        def callback(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self._thread.run_between_steps(passes(), callback)
        self._scorings.add(done)
        try:
            await done
        finally:
            self._scorings.remove(done)
        return parts

    async def watch(self) -> None:
        """Detect a step that does not end; runs until it is cancelled. Counts ticks, not time: a suspended process is not stuck."""
        tick = min(1.0, self._stuck_after / 4)
        seen, ticks = None, 0
        while True:
            await asyncio.sleep(tick)
            iteration = self._thread.iteration
            ticks = ticks + 1 if iteration is not None and iteration == seen else 0
            seen = iteration
            if self.state == "stuck" and not ticks:
                log.info("the engine answers again")
                self.set_state("ready")
            elif self.state == "ready" and ticks * tick >= self._stuck_after:
                log.error("the engine does not answer: a step takes longer than %s seconds", self._stuck_after)
                self.set_state("stuck")
                text = "the engine does not answer; what was written before is good"
                self.fail_all(unavailable("engine_stuck", text, retry_after=30))
                if self.kill():
                    log.error("the other ranks were killed")

    async def end(self, timeout: float) -> bool:
        """End the thread and the ranks; False if they did not end within ``timeout`` seconds."""
        if self._thread.ident is None:  # never started
            return True
        self._thread.stop()
        await asyncio.to_thread(self._thread.join, timeout)
        return not self._thread.is_alive()

    def kill(self) -> bool:
        """Kill the other ranks; False if there are none."""
        with contextlib.suppress(OSError):
            return self._thread.llm is not None and self._thread.llm.kill_ranks()
        return False

    # called by the thread

    def set_state(self, state: EngineState, error: BaseException | None = None) -> None:
        """Change the state. A failure ends all jobs; a failure or a new load ends all scorings."""
        self.state, self.error = state, error
        self._metrics.ready.set(state == "ready")
        self.changed.set()
        self.changed = asyncio.Event()
        if state == "failed":
            self.deliver([StepResults(job, (), True, engine_lost()) for job in self._jobs])
        if state in ("failed", "loading"):
            self._fail_scorings(engine_lost())

    def deliver(self, results: Sequence[StepResults]) -> None:
        """Put chunks into the jobs' mailboxes, and finish jobs that ended."""
        for job, chunks, ended, failure in results:
            if chunks:
                job.deliver(chunks)
            if ended and job in self._jobs:
                self._jobs.remove(job)
                self.reserved -= job.places
                self._finish(job, failure)

    def _finish(self, job: Job, failure: ServiceError | None) -> None:
        if job.finished:
            return
        if failure is not None:
            with working_for(job.request):
                log.warning("%s ends with an error: %s", job.id, failure.code)
        self._record(job, failure)
        job.finish(failure)
