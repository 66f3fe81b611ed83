"""The engine's thread: it owns the model, executes commands between engine steps, and reports results to the event loop.

Commands arrive in a queue. Results go to a :class:`Listener`, whose methods are called on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Literal, NamedTuple, Protocol

from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.engine.model_runner import SCORINGS
from cpm_gen.errors import CpmGenError, InputError, NumericsError, RankError
from cpm_gen.outputs import Chunk
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.serving.errors import ServiceError, from_library, unavailable
from cpm_gen.serving.job import Job
from cpm_gen.serving.metrics import Metrics
from cpm_gen.serving.request_ids import working_for

log = logging.getLogger("cpm_gen.serving")

EngineState = Literal["loading", "ready", "stuck", "failed", "ended"]
Callback = Callable[[BaseException | None], None]
_RELOADS = 5  # consecutive attempts to load the model again


class StepResults(NamedTuple):
    """What one engine step produced for one job; ``failure`` says why it ended early."""

    job: Job
    chunks: Sequence[Chunk]
    ended: bool
    failure: ServiceError | None = None


class Listener(Protocol):
    """Receives state changes and results, on the event loop."""

    def set_state(self, state: EngineState, error: BaseException | None = None) -> None:
        """The engine changed its state."""

    def deliver(self, results: Sequence[StepResults]) -> None:
        """A step ran, or jobs ended."""


class _ModelLost(Exception):
    """The loaded model is unusable."""


class _Stop(Exception):
    """The service ends."""


def engine_lost() -> ServiceError:
    """The error of a job that was running when the engine failed."""
    return unavailable("engine_failed", "the engine failed while it wrote this; what was written before is good")


def _refusal(job: Job, error: CpmGenError) -> ServiceError:
    """An error of the library that ends a job; what is logged about it names the job's request."""
    with working_for(job.request):
        return from_library(error)


class EngineThread(threading.Thread):
    """Loads the model and runs its steps. With ``restart`` it loads the model again after a failure."""

    def __init__(
        self,
        load: Callable[[Callable[[str], None]], TextEngine],
        metrics: Metrics,
        listener: Listener,
        *,
        restart: bool,
    ) -> None:
        """``load`` gets the function to call when a rank dies, as :class:`TextEngine` takes it."""
        super().__init__(name="cpm-gen engine", daemon=True)
        self._load = load
        self._metrics = metrics
        self._listener = listener
        self._restart = restart
        self._loop: asyncio.AbstractEventLoop  # set by start()
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._active: dict[Job, None] = {}
        self._passes: deque[tuple[Iterator[object], Callback]] = deque()
        self._failed_steps = 0  # consecutive
        self._loads = 0
        self._iterations = 0
        # read by other threads
        self.llm: TextEngine | None = None
        self.last_answer = 0.0  # when the network last answered, by time.monotonic()
        self.iteration: int | None = None  # number of the running command or step; None while idle

    # called from the event loop

    def start(self) -> None:
        """Start to load the model. Results go to the running event loop."""
        self._loop = asyncio.get_running_loop()
        super().start()

    def begin(self, job: Job) -> None:
        """Queue a job for the batch."""
        self._commands.put(lambda: self._begin(job))

    def cancel(self, job: Job) -> None:
        """Remove a job before its next token. Does nothing for a job that ended."""
        self._commands.put(lambda: self._cancel(job))

    def run_between_steps(self, passes: Iterator[object], callback: Callback) -> None:
        """Advance an iterator by one network pass after each step. Calls ``callback`` on the event loop at its end."""
        self._commands.put(lambda: self._passes.append((passes, functools.partial(self._post, callback))))

    def stop(self) -> None:
        """Close the model and end the thread."""
        self._commands.put(self._stop_now)

    # runs on the thread

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(call, *arguments)

    def run(self) -> None:
        """Load, then execute commands and steps until :meth:`stop`, or until the model is lost and is not loaded again."""
        attempts = 0
        while True:
            try:
                self._loads += 1
                self.llm = self._load(functools.partial(self._rank_died, self._loads))
                _ = self.llm.vocabulary.tokenizer.boundary_ids("sentence")
                self._warm_up(self.llm)
            except BaseException as error:
                attempts += 1
                if self.last_answer and self._restart and attempts < _RELOADS:  # an earlier load succeeded
                    log.error("loading again failed, attempt %d: %s", attempts, error)
                    time.sleep(attempts)
                    continue
                self._post(self._listener.set_state, "failed", error)
                return
            attempts = 0
            self.last_answer = time.monotonic()
            self._post(self._listener.set_state, "ready")
            try:
                while True:
                    self._iterate()
            except _Stop:
                self.llm.close()
                self._post(self._listener.set_state, "ended")
                return
            except _ModelLost as error:
                log.error("the engine failed: %s", error.__cause__ or error)
                self.iteration = None
                self._post(self._listener.set_state, "loading" if self._restart else "failed", error)
                self._fail_active(RankError("the engine failed"))
                self.llm.abandon()
                self.llm = None  # a GPU may not have memory for two models
                if not self._restart:
                    return
                self._metrics.restarts.inc()

    @staticmethod
    def _warm_up(llm: TextEngine) -> None:
        """Generate two tokens: the first token after loading takes longer than later ones."""
        for _ in llm.run([[0, 0]], SamplingParams(), TextOptions(max_new_tokens=2)):
            pass

    def _iterate(self) -> None:
        """Execute all commands, then one step of the batch, then one pass of scoring. Blocks while there is nothing to do."""
        assert self.llm is not None
        try:
            while not (self._active or self._passes) or not self._commands.empty():
                self.iteration = None
                command = self._commands.get()
                self._count()
                command()
            self._count()
            if self._active:
                self._step(self.llm)
            if self._passes:
                self._pass()
        except (_ModelLost, _Stop):
            raise
        except BaseException as error:
            self._step_failed(error)
        else:
            self._failed_steps = 0
            self.last_answer = time.monotonic()
        self.iteration = None

    def _count(self) -> None:
        self._iterations += 1
        self.iteration = self._iterations

    def _step(self, llm: TextEngine) -> None:
        self._expire(time.monotonic())
        began = time.perf_counter()
        llm.step()
        self._metrics.step.observe(time.perf_counter() - began)
        now = time.monotonic()
        results: list[StepResults] = []
        for job in list(self._active):
            chunks = job.take_ready(now, self._metrics)
            failure = next((w.generation.failure for w in job.writers if w.generation.failure), None)
            ended = failure is not None or all(w.done for w in job.writers)
            if ended:
                self._remove(job, now)
            if chunks or ended:
                results.append(StepResults(job, chunks, ended, _refusal(job, failure) if failure else None))
        if results:
            self._post(self._listener.deliver, results)
        self._set_gauges()

    def _expire(self, now: float) -> None:
        """Cancel jobs whose deadline is over."""
        for job in self._active:
            if job.deadline is not None and now > job.deadline and not job.timed_out:
                job.timed_out = True
                for writer in job.writers:
                    if not writer.done:
                        writer.cancel()

    def _begin(self, job: Job) -> None:
        assert self.llm is not None
        try:
            job.writers = self.llm.begin(job.requests, job.text, job.ready, job.shown)
        except CpmGenError as error:
            self._post(self._listener.deliver, [StepResults(job, (), True, _refusal(job, error))])
            return
        job.slides = [w.generation.slides for w in job.writers]
        self._active[job] = None

    def _cancel(self, job: Job) -> None:
        if job in self._active:
            self._remove(job, time.monotonic())
            self._post(self._listener.deliver, [StepResults(job, (), True)])
            self._set_gauges()

    def _remove(self, job: Job, now: float) -> None:
        assert self.llm is not None
        del self._active[job]
        self.llm.end(job.writers)
        reasons = job.finish_reasons()
        for reason in reasons:
            self._metrics.samples.labels(reason).inc()
        seconds = now - job.submitted
        self._metrics.whole.observe(seconds)
        with working_for(job.request):
            log.debug("%s ended after %.3f s: %s", job.id, seconds, ", ".join(reasons))

    def _set_gauges(self) -> None:
        assert self.llm is not None
        self._metrics.running.set(self.llm.running)
        self._metrics.queued.set(self.llm.waiting)
        used, slots = self.llm.slots or (0, 0)
        self._metrics.slots_used.set(used)
        self._metrics.slots.set(slots)

    def _pass(self) -> None:
        """Run one pass of the oldest scoring. As many scorings as can be encoded in parts take turns."""
        passes, callback = self._passes.popleft()
        try:
            next(passes)
        except StopIteration:
            callback(None)
        except (InputError, NumericsError) as error:
            callback(error)
        except BaseException as error:
            callback(error if isinstance(error, CpmGenError) else CpmGenError("a step failed"))
            raise
        else:
            self._passes.insert(SCORINGS - 1, (passes, callback))

    def _fail_active(self, error: CpmGenError) -> None:
        """End all running jobs and scorings with an error."""
        for gauge in (self._metrics.running, self._metrics.queued, self._metrics.slots_used):
            gauge.set(0)
        jobs = list(self._active)
        self._active.clear()
        self._post(self._listener.deliver, [StepResults(job, (), True, engine_lost()) for job in jobs])
        while self._passes:
            self._passes.popleft()[1](error)

    def _step_failed(self, error: BaseException) -> None:
        """Fail the running jobs and go on; give up the model if a rank is lost or several steps in a row failed."""
        self._failed_steps += 1
        if isinstance(error, RankError) or self._failed_steps > 3:
            raise _ModelLost from error
        log.error("a step failed", exc_info=error)
        assert self.llm is not None
        for job in self._active:
            self.llm.end(job.writers)
        self.iteration = None
        self._fail_active(CpmGenError("a step failed"))

    def _rank_died(self, load: int, failure: str) -> None:
        """Called by the thread that watches the ranks, some seconds after a death that no step noticed."""
        error = RankError(failure)

        def fail() -> None:
            if load == self._loads:
                raise _ModelLost from error

        self._commands.put(fail)

    def _stop_now(self) -> None:
        raise _Stop
