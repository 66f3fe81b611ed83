"""What a job produced: the whole result, or updates while it is generated. Plain data, for any caller to present."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cpm_gen.outputs import Chunk, Completion, Sentence, by_logprob
from cpm_gen.sampling.logprobs import Likelihood, perplexity
from cpm_gen.serving.errors import unavailable
from cpm_gen.serving.job import Job

EndReason = Literal["length", "stop", "form", "story", "timeout", "cancelled"]


@dataclass(frozen=True)
class TokenUsage:
    """Tokens read and generated. Each prompt is counted once, however many samples it has."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Their sum."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class RequestTiming:
    """Seconds from the request's arrival: until its first text entered the batch, to its first token, to its end.

    tokens_per_second: throughput of all its texts together after the first token; None for a single token.
    """

    queued: float | None
    first_token: float | None
    total: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class StorySight:
    """Parts of a story that a window shows, and lore whose keys are mentioned that it has no room for."""

    in_sight: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class GeneratedText:
    """One sample. ``index`` counts through the samples of all prompts: ``prompt * n + sample``.

    text: without the prompt and without the stop string that ended it.
    token_ids: every token generated, those of the stop string included.
    logprob: see :class:`~cpm_gen.outputs.Completion`.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: EndReason
    window_slides: int
    story: StorySight | None = None  # what the last window shows of it
    logprob: float | None = None


@dataclass(frozen=True)
class GenerationResult:
    """All texts of a generation by index, with ``rank`` the samples of each prompt best first. The same seed gives the same texts."""

    id: str
    seed: int
    texts: tuple[GeneratedText, ...]
    usage: TokenUsage
    timing: RequestTiming


@dataclass(frozen=True)
class TextUpdate:
    """A piece of one text; the pieces of a text join to the whole. ``finish_reason`` is set on the last one.

    likelihoods: of each of ``token_ids``, if the spec asked for log-probabilities.
    sentences: those of the piece, where the spec asked for candidates.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: EndReason | None
    likelihoods: tuple[Likelihood, ...] = ()
    sentences: tuple[Sentence, ...] = ()


@dataclass(frozen=True)
class WindowUpdate:
    """A text's window moved.

    Also sent when other parts of a story come in sight, first of all with the first token.

    start: its position in tokens from the prompt's beginning.
    text_start: how many characters of the generated text it does not show.
    slides: how often it has moved.
    story: what it shows of the story; None without one.
    """

    index: int
    start: int
    text_start: int
    slides: int
    story: StorySight | None = None


@dataclass(frozen=True)
class Idle:
    """No update arrived for the time that the caller named."""


Update = TextUpdate | WindowUpdate | Idle | GenerationResult


@dataclass(frozen=True)
class ScoreResult:
    """Natural log-probability of each token given those before it in the window; None for the first."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float | None, ...]

    @property
    def perplexity(self) -> float | None:
        """See :func:`cpm_gen.sampling.logprobs.perplexity`."""
        return perplexity(self.logprobs)


@dataclass(frozen=True)
class TokenizedText:
    """Token ids, and what each adds to the text; a character in several tokens comes with its last one."""

    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]


async def collect(job: Job) -> GenerationResult:
    """Wait for all texts. Raises ServiceError if the job failed."""
    done: dict[int, Completion] = {}
    while (chunks := await job.chunks()) is not None:
        done |= {chunk.place: chunk.completion for chunk in chunks if chunk.completion}
    return result(job, done)


async def updates(job: Job, idle_after: float | None = None) -> AsyncGenerator[Update, None]:
    """What the job produces, as it arrives; the last update is the GenerationResult.

    A caller that reads slowly gets fewer and longer pieces. Yields :class:`Idle` after each ``idle_after`` seconds without an
    update. Raises ServiceError if the job failed, after the updates before the failure.
    """
    done: dict[int, Completion] = {}
    places: dict[int, tuple[int, StorySight | None]]
    places = dict.fromkeys(range(job.samples), (job.requests[0].window.keep, None))
    while (chunks := await job.chunks(idle_after)) is not None:
        for chunk in chunks:
            at, reason = chunk.place, None
            if chunk.completion:
                done[at] = chunk.completion
                reason = finish_reason(job, chunk.completion)
            yield TextUpdate(at, chunk.text, chunk.token_ids, reason, chunk.likelihoods, chunk.sentences)
            place = chunk.window_start, sight(chunk)
            if place != places[at]:
                places[at] = place
                yield WindowUpdate(at, chunk.window_start, chunk.text_start, chunk.slides, place[1])
        if not chunks:
            yield Idle()
    yield result(job, done)


def result(job: Job, done: dict[int, Completion]) -> GenerationResult:
    """The result of a job that ended, from its completions by index. Raises ServiceError if it timed out without a token."""
    completions = list(done.values())
    check_started(job, completions)
    return GenerationResult(
        id=job.id,
        seed=job.requests[0].seed,
        texts=tuple(
            GeneratedText(at, c.text, c.token_ids, finish_reason(job, c), c.window_slides, sight(c), c.logprob)
            for at, c in _ordered(job, done)
        ),
        usage=usage(job, completions),
        timing=_timing(job, completions),
    )


def sight(written: Chunk | Completion) -> StorySight | None:
    """What the window shows of the story; None without one."""
    shown = written.in_sight or written.left_out
    return StorySight(written.in_sight, written.left_out) if shown else None


def _ordered(job: Job, done: Mapping[int, Completion]) -> list[tuple[int, Completion]]:
    """The completions by index, or with ``rank`` the samples of each prompt best first."""
    texts = sorted(done.items())
    if not job.text.rank:
        return texts
    return sorted(texts, key=lambda text: (text[0] // job.text.n, by_logprob(text[1])))


def finish_reason(job: Job, completion: Completion) -> EndReason:
    """The completion's, or "timeout" if the job's time was over."""
    return "timeout" if job.timed_out and completion.finish_reason == "cancelled" else completion.finish_reason


def check_started(job: Job, completions: Sequence[Completion]) -> None:
    """Raises ServiceError (unavailable) if the service's own time limit ended the job before its first token."""
    if job.timed_out and not job.own_deadline and not any(c.token_ids for c in completions):
        raise unavailable("timeout", "time was up before the first token; the service is busy")


def usage(job: Job, completions: Sequence[Completion]) -> TokenUsage:
    """Tokens of the job's prompts and of its completions."""
    return TokenUsage(job.prompt_tokens, sum(len(c.token_ids) for c in completions))


def _timing(job: Job, completions: Sequence[Completion]) -> RequestTiming:
    now = time.monotonic()
    generated = sum(len(c.token_ids) for c in completions)
    first = job.first_token
    rate = (generated - 1) / (now - first) if first is not None and generated > 1 and now > first else None
    return RequestTiming(
        queued=None if job.admitted is None else max(0.0, job.admitted - job.submitted),
        first_token=None if first is None else first - job.submitted,
        total=now - job.submitted,
        tokens_per_second=rate,
    )
