"""What a generation gives back."""

from __future__ import annotations

from dataclasses import dataclass

from cpm_gen.engine.sequence import FinishReason
from cpm_gen.sampling.logprobs import Likelihood


@dataclass(frozen=True)
class Timing:
    """Seconds from the call to the first token, and tokens per second after it (None for a single token)."""

    first_token: float | None
    tokens_per_second: float | None


@dataclass(frozen=True)
class Completion:
    """One finished sample.

    text: what was written, without the prompt and without the stop string that ended it.
    token_ids: every token written, those of the stop string included.
    finish_reason: "length", "stop" (a stop string or ``<eod>``) or "cancelled".
    window_slides: how often the window moved.
    """

    text: str
    token_ids: tuple[int, ...]
    prompt_token_ids: tuple[int, ...]
    finish_reason: FinishReason
    seed: int
    index: int
    window_slides: int
    timing: Timing


@dataclass(frozen=True)
class Chunk:
    """A piece of a text being written; the ``text`` of all chunks of one sample join to its Completion's.

    prompt, index: which prompt and which of its samples; place: which of all texts that were begun together.
    window_start: where the window stands now, in tokens from the prompt's beginning.
    slides: how often it moved.
    text_start: how many characters of what was written the window does not show any more.
    likelihoods: of each of the token_ids, where the request asked for them.
    finish_reason, completion: set on the last chunk; of a text that went on after an earlier run there is no completion.
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
