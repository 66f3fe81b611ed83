"""The engine: sequences of token ids in, token ids out. A step admits waiting sequences, runs the network, and samples.

It knows token ids only: no text, no files, no terminal. Sequences join and leave between steps; the tokens of one do not depend
on the others in the batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.engine.scheduler import BESIDE, Scheduler
from cpm_gen.engine.sequence import Request, Sequence
from cpm_gen.engine.window import Window
from cpm_gen.errors import NumericsError
from cpm_gen.networks.interface import Segment
from cpm_gen.sampling import batched
from cpm_gen.sampling.logprobs import TopCollector, likelihood
from cpm_gen.sampling.sample import Draw


@dataclass
class Spent:
    """Seconds spent in steps so far. Sampling on a GPU counts as part of the network's time."""

    steps: int = 0
    network: float = 0.0
    sampling: float = 0.0


class Engine:
    """Runs up to ``batch`` sequences at once, first come, first served. On rank 0 only.

    scheduler: decides what each step runs. spent: counters of time.
    """

    def __init__(self, runner: ModelRunner, scheduler: Scheduler, *, batch: int) -> None:
        self._runner = runner
        self.scheduler = scheduler
        self._batch = batch
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._scoring_slots = list(runner.scoring_slots)  # the free ones
        self.spent = Spent()

    @property
    def busy(self) -> bool:
        """Whether any sequence runs or waits."""
        return bool(self._waiting or self._running)

    @property
    def running(self) -> int:
        """Number of sequences that the next step continues."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Number of sequences that wait for a place in the batch."""
        return len(self._waiting)

    @property
    def free_scoring_slots(self) -> int:
        """Number of scoring slots that no text uses."""
        return len(self._scoring_slots)

    def add(self, request: Request) -> Sequence:
        """Queue a request; later steps update the returned Sequence."""
        sequence = Sequence(request)
        self._waiting.append(sequence)
        return sequence

    def cancel(self, sequence: Sequence, reason: str = "cancelled") -> None:
        """End a sequence before its next token; ``reason`` is "cancelled" or "stop" (its text reached a stop string)."""
        if sequence.finish_reason is None:
            sequence.finish_reason = "stop" if reason == "stop" else "cancelled"
        self._retire()

    def step(self) -> list[Sequence]:
        """Run one step; returns the sequences that got a token or a ``failure``. Some of them are finished now."""
        while self._waiting and len(self._running) < self._batch:
            self._running.append(self._waiting.popleft())
            self._running[-1].admitted = time.monotonic()
        try:
            scheduled = self.scheduler.plan(self._running)
            if not scheduled:
                return []
            began = time.perf_counter()
            logits = self._runner.next_logits([s.segment for s in scheduled])
            ran = time.perf_counter()
            advanced = [s.sequence for s in scheduled if s.segment.logits]
            draws = [_draw(sequence) for sequence in advanced]
            if self._runner.network.samples:
                choices = batched.choose(logits, draws)
                ran = time.perf_counter()
            else:
                choices = [_choose(draw, row) for draw, row in zip(draws, logits.numpy(), strict=True)]
            self.spent.steps += 1
            self.spent.network += ran - began
            self.spent.sampling += time.perf_counter() - ran
        except BaseException:  # after an interrupt the contents of the slots are not known
            for sequence in self._running:
                self.scheduler.release(sequence)
            raise
        for sequence, choice, row in zip(advanced, choices, logits, strict=True):
            if isinstance(choice, NumericsError):
                sequence.failure, sequence.finish_reason = choice, "cancelled"
                continue
            if sequence.request.logprobs is not None:
                sequence.likelihoods.append(likelihood(row.cpu().numpy(), choice, sequence.request.logprobs))
            sequence.append(choice)
        self._retire()
        return advanced

    def _retire(self) -> None:
        for sequence in self._running:
            if sequence.finish_reason is not None:
                self.scheduler.release(sequence)
        self._running = [s for s in self._running if s.finish_reason is None]
        self._waiting = deque(s for s in self._waiting if s.finish_reason is None)

    def score(
        self, ids: Seq[int], window: Window, ends: frozenset[int] | None, top: TopCollector | None = None
    ) -> Iterator[list[float]]:
        """Natural log-probability of each token given the ones before it that ``window`` shows, from the second token on.

        Yields parts, some of them empty, each from one pass of the network; steps may run between them. Tokens of one window are
        encoded once: in one pass, or, while sequences run, in parts as long as those of prefill.
        top: gets the most probable tokens of the same places.
        """
        start, at = window.keep, 1  # ids[at] is the next to score, given ids[:at]
        while at < len(ids):
            start = window.advance(ids, start, ends, at)
            end = at + 1
            while end < len(ids) and window.keep + end - start <= window.limit:
                end += 1
            # the contexts of ids[at:end] are prefixes of each other: run the longest, score its last rows
            context = [*ids[: min(window.keep, end - 1)], *ids[max(start, window.keep) : end - 1]]
            yield from self._score_window(context, ids[at:end], top)
            at = end

    def _score_window(self, context: Seq[int], targets: Seq[int], top: TopCollector | None) -> Iterator[list[float]]:
        """The targets, which follow the last tokens of the context."""
        if not (self.busy and self._scoring_slots):
            yield self._runner.score(Segment(context), targets, top)
            return
        first = len(context) - len(targets)
        slot = self._scoring_slots.pop()
        try:
            done = 0
            while done < len(context):
                end = min(done + BESIDE, len(context)) if self.busy else len(context)
                part = Segment(context[done:end], done, slot)
                yield self._runner.score(part, targets[max(0, done - first) : max(0, end - first)], top)
                done = end
        finally:
            self._scoring_slots.append(slot)


def _draw(sequence: Sequence) -> Draw:
    request = sequence.request
    params = request.params
    looks_back = params.repetition_penalty != 1.0 or params.no_repeat_ngram > 0
    counts = params.presence_penalty != 0 or params.frequency_penalty != 0
    allowed = sequence.allowed()
    return Draw(
        params,
        context=sequence.context_history() if looks_back else (),
        written=sequence.context_written() if counts else (),
        forbidden=sequence.forbidden(),
        seed=request.seed,
        sample_index=request.sample_index,
        step=sequence.step,
        history=sequence.suffix_matches() if params.dry_multiplier else (),
        allowed=allowed,
        bias=None if allowed is None else sequence.bias(allowed),
    )


def _choose(draw: Draw, logits: NDArray[np.float32]) -> int | NumericsError:
    """The next token, or the error that prevents it: a numerical error ends only the sequence it occurred in."""
    try:
        return draw.choose(logits)
    except NumericsError as error:
        return error
