"""The engine's thread: it owns the model, carries out commands between steps, and tells the event loop what was written.

Commands come through a queue; what becomes of them goes to a :class:`Listener`, whose methods are called on the event loop.
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
from typing import Literal, Protocol

from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.engine.model_runner import SCORINGS
from cpm_gen.errors import CpmGenError, InputError, NumericsError, RankError
from cpm_gen.outputs import Chunk
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.serving.errors import ServiceError, from_library, unavailable
from cpm_gen.serving.job import Job
from cpm_gen.serving.metrics import Metrics

log = logging.getLogger("cpm_gen.server")

State = Literal["loading", "ready", "stuck", "failed", "ended"]
News = tuple[Job, Sequence[Chunk], bool, ServiceError | None]  # what was written, whether it is the end, and why
Settle = Callable[[BaseException | None], None]
_RELOADS = 5  # attempts in a row to load the model again


class Listener(Protocol):
    """Who hears of it, on the event loop."""

    def become(self, state: State, error: BaseException | None = None) -> None:
        """The engine is in another state."""

    def deliver(self, news: Sequence[News]) -> None:
        """A step was run, or jobs ended."""


class _Dead(Exception):
    """The loaded model cannot go on."""


class _End(Exception):
    """The service ends."""


def lost() -> ServiceError:
    """Why a job ended that the engine took down with it."""
    return unavailable("engine_failed", "the engine failed while it wrote this; what was written before is good")


class EngineThread(threading.Thread):
    """Loads the model, and again after it failed, if ``restart``."""

    def __init__(
        self,
        load: Callable[[Callable[[str], None]], TextEngine],
        metrics: Metrics,
        listener: Listener,
        *,
        restart: bool,
    ) -> None:
        """``load`` gets a function to call when a rank dies, as :class:`TextEngine` takes it. To be called on the event loop."""
        super().__init__(name="cpm-gen engine", daemon=True)
        self._load = load
        self._metrics = metrics
        self._listener = listener
        self._restart = restart
        self._loop = asyncio.get_running_loop()
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._active: dict[Job, None] = {}
        self._passes: deque[tuple[Iterator[object], Settle]] = deque()
        self._troubles = 0  # failures in a row
        self._loads = 0
        self._turns = 0
        # for others to read
        self.llm: TextEngine | None = None
        self.answered = 0.0  # when the network last answered, by time.monotonic()
        self.turn: int | None = None  # which one it is busy with

    # from the event loop

    def begin(self, job: Job) -> None:
        """Add a job to the batch, or to those that wait for it."""
        self._commands.put(lambda: self._begin(job))

    def cancel(self, job: Job) -> None:
        """Take a job out before its next token; for one that ended this does nothing."""
        self._commands.put(lambda: self._cancel(job))

    def work(self, passes: Iterator[object], settle: Settle) -> None:
        """Advance an iterator between steps, one pass of the network each time; ``settle`` is told the end of it."""
        self._commands.put(lambda: self._passes.append((passes, functools.partial(self._post, settle))))

    def stop(self) -> None:
        """Close the model and end."""
        self._commands.put(self._halt)

    # on the thread

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended; nobody listens
            self._loop.call_soon_threadsafe(call, *arguments)

    def run(self) -> None:
        """Until :meth:`stop`, or until the model cannot be used any more."""
        attempts = 0
        while True:
            try:
                self._loads += 1
                self.llm = self._load(functools.partial(self._rank_died, self._loads))
                _ = self.llm.tokenizer.boundary_ids("sentence")
                self._warm(self.llm)
            except BaseException as error:
                attempts += 1
                if self.answered and self._restart and attempts < _RELOADS:  # it did load once
                    log.error("loading again failed, attempt %d: %s", attempts, error)
                    time.sleep(attempts)
                    continue
                self._post(self._listener.become, "failed", error)
                return
            attempts = 0
            self.answered = time.monotonic()
            self._post(self._listener.become, "ready")
            try:
                while True:
                    self._turn()
            except _End:
                self.llm.close()
                self._post(self._listener.become, "ended")
                return
            except _Dead as error:
                log.error("the engine failed: %s", error.__cause__ or error)
                self.turn = None
                self._post(self._listener.become, "loading" if self._restart else "failed", error)
                self._give_up(RankError("the engine failed"))
                self.llm.abandon()
                self.llm = None  # on a GPU there may not be room for two
                if not self._restart:
                    return
                self._metrics.restarts.inc()

    @staticmethod
    def _warm(llm: TextEngine) -> None:
        """The first token of all takes longer; nobody shall wait for it."""
        for _ in llm.run([[llm.tokenizer.eod] * 2], SamplingParams(), TextOptions(max_new_tokens=2)):
            pass

    def _turn(self) -> None:
        """Commands, then a step of the batch, then a pass of scoring, if there is anything to do."""
        assert self.llm is not None
        try:
            while not (self._active or self._passes) or not self._commands.empty():
                self.turn = None
                command = self._commands.get()
                self._count()
                command()
            self._count()
            if self._active:
                self._step(self.llm)
            if self._passes:
                self._pass()
        except (_Dead, _End):
            raise
        except BaseException as error:
            self._trouble(error)
        else:
            self._troubles = 0
            self.answered = time.monotonic()
        self.turn = None

    def _count(self) -> None:
        self._turns += 1
        self.turn = self._turns

    def _step(self, llm: TextEngine) -> None:
        self._expire(time.monotonic())
        began = time.perf_counter()
        llm.step()
        self._metrics.step.observe(time.perf_counter() - began)
        now = time.monotonic()
        news: list[News] = []
        for job in list(self._active):
            chunks = self._collect(job, now)
            failure = next((w.generation.failure for w in job.writers if w.generation.failure), None)
            ended = failure is not None or all(w.done for w in job.writers)
            if ended:
                self._forget(job, now)
            if chunks or ended:
                news.append((job, chunks, ended, from_library(failure) if failure else None))
        if news:
            self._post(self._listener.deliver, news)
        self._gauge()

    def _collect(self, job: Job, now: float) -> list[Chunk]:
        """The job's new chunks, counted."""
        metrics, chunks = self._metrics, []
        while job.ready:
            chunk = job.ready.popleft()
            chunks.append(chunk)
            at = chunk.place
            if chunk.token_ids:
                metrics.generated_tokens.inc(len(chunk.token_ids))
                if at in job.last:
                    metrics.between_tokens.observe(now - job.last[at])
                else:
                    metrics.first_token.observe(now - job.asked)
                    admitted = job.writers[at].generation.admitted or now
                    metrics.waiting.observe(admitted - job.asked)
                    job.began = min(job.began or admitted, admitted)
                    job.first_token = job.first_token or now
                job.last[at] = now
            metrics.slides.inc(chunk.slides - job.slides[at])
            job.slides[at] = chunk.slides
        return chunks

    def _expire(self, now: float) -> None:
        """End what has had its time."""
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
            self._post(self._listener.deliver, [(job, (), True, from_library(error))])
            return
        job.slides = [w.generation.slides for w in job.writers]
        self._active[job] = None

    def _cancel(self, job: Job) -> None:
        if job in self._active:
            self._forget(job, time.monotonic())
            self._post(self._listener.deliver, [(job, (), True, None)])
            self._gauge()

    def _forget(self, job: Job, now: float) -> None:
        assert self.llm is not None
        del self._active[job]
        self.llm.end(job.writers)
        for writer in job.writers:
            reason = writer.generation.finish_reason or "cancelled"
            self._metrics.samples.labels("timeout" if job.timed_out and reason == "cancelled" else reason).inc()
        self._metrics.whole.observe(now - job.asked)

    def _gauge(self) -> None:
        assert self.llm is not None
        self._metrics.running.set(self.llm.running)
        self._metrics.queued.set(self.llm.waiting)
        used, slots = self.llm.slots or (0, 0)
        self._metrics.slots_used.set(used)
        self._metrics.slots.set(slots)

    def _pass(self) -> None:
        """One pass of the oldest scoring; as many as can be encoded in parts take turns."""
        passes, settle = self._passes.popleft()
        try:
            next(passes)
        except StopIteration:
            settle(None)
        except (InputError, NumericsError) as error:
            settle(error)
        except BaseException as error:
            settle(error if isinstance(error, CpmGenError) else CpmGenError("a step failed"))
            raise
        else:
            self._passes.insert(SCORINGS - 1, (passes, settle))

    def _give_up(self, error: CpmGenError) -> None:
        """What was being written or scored is lost."""
        for gauge in (self._metrics.running, self._metrics.queued, self._metrics.slots_used):
            gauge.set(0)
        jobs = list(self._active)
        self._active.clear()
        self._post(self._listener.deliver, [(job, (), True, lost()) for job in jobs])
        while self._passes:
            self._passes.popleft()[1](error)

    def _trouble(self, error: BaseException) -> None:
        """A step failed. Without its ranks the model is of no use; otherwise its samples are lost and the next may do better."""
        self._troubles += 1
        if isinstance(error, RankError) or self._troubles > 3:
            raise _Dead from error
        log.error("a step failed", exc_info=error)
        assert self.llm is not None
        for job in self._active:
            self.llm.end(job.writers)
        self.turn = None
        self._give_up(CpmGenError("a step failed"))

    def _rank_died(self, load: int, failure: str) -> None:
        """From the thread that watches the ranks, some seconds after a death that no step met."""
        error = RankError(failure)

        def die() -> None:
            if load == self._loads:
                raise _Dead from error

        self._commands.put(die)

    def _halt(self) -> None:
        raise _End
