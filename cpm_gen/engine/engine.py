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

from torch import Tensor

from cpm_gen.engine.candidates import (
    begin_sentence,
    drawing_with,
    end_sentence,
    growing,
    meet,
    part,
    release_rows,
)
from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.engine.scheduler import BESIDE, Scheduler
from cpm_gen.engine.sequence import Request, Sequence
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError, NumericsError
from cpm_gen.networks.interface import Segment
from cpm_gen.sampling import batched
from cpm_gen.sampling.logprobs import TopCollector, likelihood, logprobs_of
from cpm_gen.sampling.rows import choose_each
from cpm_gen.sampling.sample import Draw


@dataclass
class Spent:
    """Seconds spent in steps so far. Sampling on a GPU counts as part of the network's time."""

    steps: int = 0
    network: float = 0.0
    sampling: float = 0.0


class Engine:
    """Runs up to ``batch`` sequences at once, first come, first served; each candidate counts as one. On rank 0 only.

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
        """Queue a request; later steps update the returned Sequence. Raises ConfigError for more candidates than the batch."""
        if request.candidates > self._batch:
            raise ConfigError(f"{request.candidates} candidates do not fit a batch of {self._batch}")
        sequence = Sequence(request)
        self._waiting.append(sequence)
        return sequence

    def cancel(self, sequence: Sequence, reason: str = "cancelled") -> None:
        """End a sequence before its next token; ``reason`` is "cancelled" or "stop" (its text reached a stop string)."""
        if sequence.finish_reason is None:
            sequence.finish_reason = "stop" if reason == "stop" else "cancelled"
        self._retire()

    def step(self) -> list[Sequence]:
        """Run one step; returns the sequences that got a token, a sentence or a ``failure``. Some of them are finished now."""
        self._admit()
        try:
            for text in self._running:
                meet(text, self.scheduler)
            scheduled = self.scheduler.plan([row for text in self._running for row in growing(text)])
            if not scheduled:
                return []
            began = time.perf_counter()
            logits = self._runner.next_logits([s.segment for s in scheduled])
            ran = time.perf_counter()
            drawing, places = self._drawing([s.sequence for s in scheduled if s.segment.logits])
            draws = _draws(drawing, places)
            if self._runner.network.samples:
                choices = batched.choose(logits if len(places) == len(logits) else logits[places], draws)
                ran = time.perf_counter()
            else:
                choices = choose_each(logits.numpy(), draws, places, self._runner.network.logit_kernels)
            self.spent.steps += 1
            self.spent.network += ran - began
            self.spent.sampling += time.perf_counter() - ran
            self._append(logits, drawing, places, choices)
            self._runner.copy_slots([copy for text in self._running for copy in part(text, self.scheduler)])
        except BaseException:  # after an interrupt the contents of the slots are not known
            for sequence in self._running:
                self._release(sequence)
            raise
        advanced = [s for s in drawing if s.candidate is None]
        advanced += [text for text in self._running if text.rows and end_sentence(text, self.scheduler)]
        self._retire()
        return advanced

    def _admit(self) -> None:
        """Move waiting sequences into the batch, in their order; each candidate takes a place."""
        places = self._batch - sum(s.request.candidates for s in self._running)
        while self._waiting and self._waiting[0].request.candidates <= places:
            self._running.append(self._waiting.popleft())
            self._running[-1].admitted = time.monotonic()
            places -= self._running[-1].request.candidates

    def _drawing(self, encoded: Seq[Sequence]) -> tuple[list[Sequence], list[int]]:
        """What draws its next token from each of the logits: a sequence, or where a sentence begins its candidates.

        Returns them with the places of their logits.
        """
        drawing: list[Sequence] = []
        places: list[int] = []
        texts = {id(row): text for text in self._running for row in text.rows}
        for at, sequence in enumerate(encoded):
            if sequence.request.candidates > 1 and sequence.candidate is None:
                begin_sentence(sequence, self.scheduler)
                rows = sequence.rows
            else:
                text = texts.get(id(sequence))
                rows = [sequence] if text is None else drawing_with(sequence, text)
            drawing += rows
            places += [at] * len(rows)
        return drawing, places

    def _append(
        self, logits: Tensor, drawing: Seq[Sequence], places: Seq[int], choices: Seq[int | NumericsError]
    ) -> None:
        scored = []
        for sequence, at, choice in zip(drawing, places, choices, strict=True):
            if isinstance(choice, NumericsError):
                sequence.failure, sequence.finish_reason = choice, "cancelled"
                continue
            if sequence.request.logprobs is not None:
                sequence.likelihoods.append(likelihood(logits[at].cpu().numpy(), choice, sequence.request.logprobs))
            if sequence.request.scored or sequence.candidate is not None:
                scored.append((sequence, at, choice))
            sequence.append(choice)
        if scored:
            sequences, rows, tokens = zip(*scored, strict=True)
            for sequence, logprob in zip(
                sequences, logprobs_of(logits, rows, tokens, self._runner.network.logit_kernels), strict=True
            ):
                sequence.logprobs.append(logprob)

    def _release(self, sequence: Sequence) -> None:
        release_rows(sequence, self.scheduler)
        self.scheduler.release(sequence)

    def _retire(self) -> None:
        for sequence in self._running:
            if sequence.finish_reason is not None:
                self._release(sequence)
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


def _draws(drawing: Seq[Sequence], places: Seq[int]) -> list[Draw]:
    """What each sequence draws; candidates that draw from the same logits differ in their numbers only."""
    draws: list[Draw] = []
    for number, sequence in enumerate(drawing):
        if number and places[number] == places[number - 1]:
            draws.append(draws[-1].with_candidate(sequence.candidate or 0))
        else:
            draws.append(_draw(sequence))
    return draws


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
        candidate=sequence.candidate or 0,
        step=sequence.step,
        history=sequence.suffix_matches() if params.dry_multiplier else (),
        allowed=allowed,
        bias=None if allowed is None else sequence.bias(allowed),
    )
