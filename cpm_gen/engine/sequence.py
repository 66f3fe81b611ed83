"""One generation: what was asked (frozen) and how far it is (mutable)."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Literal

from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.window import Window
from cpm_gen.errors import InputError, NumericsError
from cpm_gen.sampling.logprobs import Likelihood

FinishReason = Literal["length", "stop", "cancelled"]


@dataclass(frozen=True)
class Request:
    """Everything that determines the tokens of one sample: two equal requests write the same tokens.

    prompt: token ids, at least one.
    ends: ids after which the window may begin; None for any.
    max_new_tokens: None for unlimited.
    stop_ids: ids that end the text (``<eod>``, where asked for); banned before ``params.min_new_tokens``.
    written: tokens of this very request that an earlier run wrote, in an array where they may be millions; it goes on after
        them as if it had never ended, past a stop id among them, too.
    recompute: run the whole context for every token, whatever the engine does for others.
    logprobs: keep each token's log-probability, and those of so many best ones; None keeps nothing.
    """

    prompt: tuple[int, ...]
    window: Window
    ends: frozenset[int] | None
    params: SamplingParams
    seed: int
    sample_index: int = 0
    max_new_tokens: int | None = None
    stop_ids: frozenset[int] = frozenset()
    written: Seq[int] = ()
    recompute: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        """Check the prompt, and that something is left to write; raises InputError."""
        if not self.prompt:
            raise InputError("a prompt needs at least one token")
        if self.written and self.max_new_tokens is not None and len(self.written) >= self.max_new_tokens:
            raise InputError("what was written is complete; there is nothing to go on with")


@dataclass
class Sequence:
    """A request being worked on.

    tokens: prompt and text, as 64-bit integers, which numpy takes as they are.
    start: where the window stands; next_start: where it will move to, once that is known (see :mod:`cpm_gen.engine.window`).
    slides: how often it moved.
    failure: why no next token could be chosen, if it ended so.
    """

    request: Request
    tokens: array[int] = field(init=False)
    start: int = field(init=False)
    next_start: int | None = field(init=False)
    slides: int = 0
    admitted: float | None = None  # when it got its place in the batch, by time.monotonic()
    likelihoods: list[Likelihood] = field(default_factory=list)  # of the tokens this run wrote, where asked for
    failure: NumericsError | None = None
    finish_reason: FinishReason | None = None

    def __post_init__(self) -> None:
        """Place the window over the prompt, and move it as what was written moved it."""
        request, window = self.request, self.request.window
        self.tokens = array("q", request.prompt)
        self.tokens.extend(request.written)
        self.start = window.advance(request.prompt, window.keep, request.ends)
        for start in window.moves(self.tokens, self.start, request.ends, len(self.tokens)):
            self.start = start
            self.slides += 1
        self.next_start = window.peek(self.tokens, self.start, self.request.ends)

    @property
    def new_tokens(self) -> list[int]:
        """The tokens written so far."""
        return self.tokens[len(self.request.prompt) :].tolist()

    @property
    def step(self) -> int:
        """How many tokens were written: the counter of the next draw."""
        return len(self.tokens) - len(self.request.prompt)

    def context(self) -> array[int]:
        """The tokens that the network sees now."""
        return self.request.window.context(self.tokens, self.start)

    def context_written(self) -> Seq[int]:
        """Those tokens of the context that were generated."""
        prompt, keep = len(self.request.prompt), self.request.window.keep
        return self.tokens[prompt:keep] + self.tokens[max(self.start, keep, prompt) :]

    def forbidden(self) -> frozenset[int]:
        """Ids that must not come next: what would end the text too early."""
        return self.request.stop_ids if self.step < self.request.params.min_new_tokens else frozenset()

    def append(self, token: int) -> None:
        """Take the next token: finish, or move the window if the context is full."""
        self.tokens.append(token)
        if token in self.request.stop_ids:
            self.finish_reason = "stop"
        elif self.request.max_new_tokens is not None and self.step >= self.request.max_new_tokens:
            self.finish_reason = "length"
        window, ends = self.request.window, self.request.ends
        looked = len(self.tokens) - 1
        if window.overflows(len(self.tokens), self.start):
            self.slides += 1
            if self.next_start is None:
                self.start += window.hop
            else:
                self.start, self.next_start, looked = self.next_start, None, 0
        if self.next_start is None:
            self.next_start = window.peek(self.tokens, self.start, ends, looked)

    def length(self, start: int) -> int:
        """How many tokens a window at ``start`` shows of what is written."""
        keep = self.request.window.keep
        return min(keep, len(self.tokens)) + max(0, len(self.tokens) - max(start, keep))

    def shown(self, start: int, first: int, count: int) -> list[int]:
        """Tokens ``first .. first + count`` of the context that a window at ``start`` shows."""
        keep = min(self.request.window.keep, len(self.tokens))
        kept = self.tokens[first : min(keep, first + count)]
        begin = max(start, self.request.window.keep) + max(first, keep) - keep
        return (kept + self.tokens[begin : begin + count - len(kept)]).tolist()
