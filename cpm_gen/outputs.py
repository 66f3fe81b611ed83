"""The results of a generation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cpm_gen.engine.sequence import FinishReason
from cpm_gen.sampling.logprobs import Likelihood


@dataclass(frozen=True)
class Timing:
    """Seconds from the call to the first token (TTFT), and tokens per second after it; None without a second token."""

    first_token: float | None
    tokens_per_second: float | None


@dataclass(frozen=True)
class SentenceCandidate:
    """A candidate for a sentence. logprob: natural log-probability a character. score: what ranks; the greatest is kept."""

    text: str
    logprob: float
    score: float


@dataclass(frozen=True)
class Sentence:
    """A sentence, or a clause of a form, that was chosen from candidates. kept: the number of the one that the text has."""

    candidates: tuple[SentenceCandidate, ...]
    kept: int

    @property
    def text(self) -> str:
        """The kept candidate's."""
        return self.candidates[self.kept].text


@dataclass(frozen=True)
class Completion:
    """One finished sample.

    text: without the prompt and without the stop string that ended it.
    token_ids: every generated token, those of the stop string included.
    finish_reason: "length", "stop" (a stop string or ``<eod>``), "form" or "story" (they are complete) or "cancelled".
    seed, index: those that reproduce it. window_slides: how often the window moved.
    in_sight, left_out: parts of the story that the last window shows, and lore that it has no room for.
    logprob: mean natural log-probability a character, before penalties, temperature and filters; None unless ``rank`` or several
        candidates ask for it, and for a text that continues an earlier run.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_token_ids: tuple[int, ...]
    finish_reason: FinishReason
    seed: int
    index: int
    window_slides: int
    timing: Timing
    in_sight: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    logprob: float | None = None


@dataclass(frozen=True)
class Chunk:
    """The new part of a sample after a step; the ``text`` of all its chunks together is its Completion's.

    prompt, index: indices of the prompt and of its sample. place: index among all samples that were begun together.
    window_start: where the window begins, in tokens from the prompt's beginning. slides: how often it moved.
    text_start: number of generated characters before the window.
    in_sight, left_out: parts of the story that the window shows, and lore that it has no room for.
    likelihoods: of each of the token_ids, if the request asked for them.
    sentences: with candidates, the one that was added, or several in a merged chunk; empty without.
    finish_reason, completion: set on the last chunk; a text that continues an earlier run has no completion.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt: int
    index: int
    place: int
    window_start: int
    slides: int
    finish_reason: FinishReason | None = None
    completion: Completion | None = None
    text_start: int = 0
    likelihoods: tuple[Likelihood, ...] = ()
    in_sight: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    sentences: tuple[Sentence, ...] = ()


def by_logprob(completion: Completion) -> float:
    """Sorts the samples of a prompt best first by their log-probability a character; those without one come last."""
    return math.inf if completion.logprob is None else -completion.logprob
