"""One generation: its request (frozen) and its progress (mutable)."""

from __future__ import annotations

import copy
from array import array
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any, Literal

from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.insertions import NOTHING, Inserted, Insertions
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError, InputError, NumericsError
from cpm_gen.sampling.constraints import NO_IDS, Constraint, Floats32, Indices, state_after
from cpm_gen.sampling.dry import SuffixMatches
from cpm_gen.sampling.logprobs import Likelihood
from cpm_gen.sampling.ranking import Choice, Sentences

FinishReason = Literal["length", "stop", "form", "story", "cancelled"]
SENTENCE_TOKENS = 64  # where candidates for a sentence end in any case


@dataclass(frozen=True)
class Request:
    """Everything that determines the tokens of one sample: equal requests give equal tokens.

    prompt: token ids, at least one.
    ends: ids after which the window may begin; None for any.
    max_new_tokens: None for unlimited.
    stop_ids: ids that end the text, such as ``<eod>``; banned before ``params.min_new_tokens``.
    written: tokens of the same request that an earlier run generated, an array if there may be millions. The sequence continues
        after them as if it had not been interrupted, even if a stop id is among them.
    recompute: run the whole context for every token, without the KV cache.
    logprobs: keep each token's log-probability and those of this many best tokens; None keeps nothing.
    constraint: what the generated tokens have to fulfil, and where it ends the text; None: nothing.
    insertions: what the windows show beside the history. The network sees up to ``insertions.room`` tokens more than
        ``window.limit``.
    candidates: how often each sentence is written, of which the best is kept; 1: once. sentences: what they are compared by; needed for
        more than one.
    complete: write all candidates to their ends, also those that cannot be the best any more; the text is the same.
    scored: add up the log-probabilities of the tokens; those of several candidates always are.
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
    constraint: Constraint | None = None
    insertions: Insertions | None = None
    candidates: int = 1
    sentences: Sentences | None = None
    complete: bool = False
    scored: bool = False

    def __post_init__(self) -> None:
        """Check that there is a prompt and a token left to generate, and that what is given fits together.

        Raises InputError for the prompt and ``written``, ConfigError for insertions beside ``window.keep``, whose place they take.
        """
        if not self.prompt:
            raise InputError("a prompt needs at least one token")
        if self.written and (
            (self.max_new_tokens is not None and len(self.written) >= self.max_new_tokens)
            or (self.constraint is not None and self.constraint.finished(state_after(self.constraint, self.written)))
        ):
            raise InputError("what was written is complete; there is nothing to go on with")
        if self.insertions is not None and self.window.keep:
            raise ConfigError(f"window keep must be 0 beside insertions, not {self.window.keep}")


@dataclass
class Sequence:
    """The state of a request.

    tokens: prompt and generated tokens, 64-bit integers that numpy uses without a copy.
    start: where the window begins. next_start: where it will move to, once known (see :mod:`cpm_gen.engine.window`).
    slides: how often it moved.
    inserted, next_inserted: what the window shows beside the history, and what the next one will, once decided.
    failure: the error that ended it, if no next token could be chosen. form: the state of the request's constraint.
    candidate: the number of this candidate for a sentence; None: a text. rows: the candidates for the text's next sentence, while they are
        written. choice: the sentence that was appended last, and the other candidates.
    leader: the row of equal tokens that the network runs for this one; None: it is run itself.
    meet: the rows wait for each other where this many characters of their line are left; None: not in this sentence, or they have met.
    beaten: this candidate cannot be the best any more. own_score: of a candidate that reached its end.
    logprobs: of each of this run's tokens, or of a candidate's; empty where the request does not need them.
    """

    request: Request
    tokens: array[int] = field(init=False)
    start: int = field(init=False)
    next_start: int | None = field(init=False)
    slides: int = 0
    inserted: Inserted = field(default=NOTHING, init=False)
    next_inserted: Inserted | None = field(default=NOTHING, init=False)
    admitted: float | None = None  # when it joined the batch, by time.monotonic()
    likelihoods: list[Likelihood] = field(
        default_factory=list
    )  # of the tokens of this run, if the request asks for them
    failure: NumericsError | None = None
    finish_reason: FinishReason | None = None
    candidate: int | None = None
    rows: list[Sequence] = field(default_factory=list)
    choice: Choice | None = None
    leader: Sequence | None = None
    meet: int | None = None
    logprobs: array[float] = field(default_factory=lambda: array("d"))
    beaten: bool = False
    own_score: float | None = None
    _matches: SuffixMatches | None = field(default=None, init=False)
    form: Any = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Place the window at the end of the prompt, then move it as the tokens of an earlier run did."""
        request, window = self.request, self.request.window
        self.tokens = array("q", request.prompt)
        self.tokens.extend(request.written)
        self.start = window.advance(request.prompt, window.keep, request.ends)
        decided = len(request.prompt)
        for start in window.moves(self.tokens, self.start, request.ends, len(self.tokens)):
            decided = self._decision()
            self.start = start
            self.slides += 1
        self.next_start = window.peek(self.tokens, self.start, self.request.ends)
        self._replay(decided)

    def _replay(self, decided: int) -> None:
        """Advance the constraint over what was written, and choose what the windows insert.

        decided: the length of the history that decided it for the current window.
        """
        request, known = self.request, min(self._decision(), len(self.tokens))
        if request.constraint is not None:
            self.form = request.constraint.begin()
        self._read(len(request.prompt), decided)
        if request.insertions is not None:
            self.inserted, self.next_inserted = request.insertions.choose(self.tokens, decided, self.form), None
        self._read(decided, known)
        self._decide()
        self._read(known, len(self.tokens))

    def _read(self, first: int, last: int) -> None:
        """Advance the constraint's state over the tokens from ``first`` to ``last``."""
        if self.request.constraint is not None:
            for token in self.tokens[first:last]:
                self.form = self.request.constraint.advance(self.form, token)

    @property
    def new_tokens(self) -> list[int]:
        """The tokens generated so far."""
        return self.tokens[len(self.request.prompt) :].tolist()

    @property
    def step(self) -> int:
        """Number of generated tokens: the counter of the next random draw."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def logprob(self) -> float:
        """The sum of :attr:`logprobs`."""
        return sum(self.logprobs)

    @property
    def shows_next(self) -> bool:
        """Whether some tokens of the next window are known: those that it inserts, or the history's."""
        start = self.next_start
        return start is not None and (self.request.insertions is not None or start < len(self.tokens))

    def context(self) -> array[int]:
        """The tokens that the network sees."""
        return array("q", self.shown(self.start, 0, self.length(self.start)))

    def context_history(self) -> array[int]:
        """The tokens of the history in the window."""
        return self.request.window.context(self.tokens, self.start)

    def context_written(self) -> Seq[int]:
        """The generated tokens among those of the window."""
        prompt, keep = len(self.request.prompt), self.request.window.keep
        return self.tokens[prompt:keep] + self.tokens[max(self.start, keep, prompt) :]

    def suffix_matches(self) -> SuffixMatches:
        """The passages of all tokens so far that the last ones repeat. The object grows with the text."""
        if self._matches is None:
            self._matches = SuffixMatches()
        self._matches.extend(self.tokens)
        return self._matches

    def forbidden(self) -> frozenset[int]:
        """Ids that must not come next: they would end the text before its minimum length, or its constraint forbids them."""
        request = self.request
        stops = request.stop_ids if self.step < request.params.min_new_tokens else NO_IDS
        return stops if request.constraint is None else stops | request.constraint.forbidden(self.form)

    def allowed(self) -> Indices | None:
        """Ids that the request's constraint allows next, ascending; None: any."""
        constraint = self.request.constraint
        return None if constraint is None else constraint.allowed(self.form)

    def bias(self, allowed: Indices) -> Floats32 | None:
        """What the request's constraint adds to the logits of the allowed ids; None: nothing."""
        constraint = self.request.constraint
        return None if constraint is None else constraint.bias(self.form, allowed)

    def append(self, token: int) -> None:
        """Append the next token; set the finish reason if it ends the text, and move the window if it is full."""
        self.tokens.append(token)
        self._read(len(self.tokens) - 1, len(self.tokens))
        self.finish_reason = self._reason_after(token)
        window, ends = self.request.window, self.request.ends
        looked = len(self.tokens) - 1
        if window.overflows(len(self.tokens), self.start):
            self.slides += 1
            if self.next_start is None:
                self.start += window.hop
            else:
                self.start, self.next_start, looked = self.next_start, None, 0
            if self.request.insertions is not None:
                assert self.next_inserted is not None
                self.inserted, self.next_inserted = self.next_inserted, None
        if self.next_start is None:
            self.next_start = window.peek(self.tokens, self.start, ends, looked)
        self._decide()

    def _reason_after(self, token: int) -> FinishReason | None:
        """Why the text ends with this token, its last; None: it does not."""
        request = self.request
        if request.constraint is not None and request.constraint.finished(self.form):
            return request.constraint.reason
        if token in request.stop_ids:
            return "stop"
        if request.max_new_tokens is not None and self.step >= request.max_new_tokens:
            return "length"
        return None

    def _decision(self) -> int:
        """Length of the history that decides what the next window inserts: less than the length at which the window moves."""
        window = self.request.window
        return max(len(self.request.prompt), self.start + window.limit - window.hop // 4)

    def _decide(self) -> None:
        """Choose what the next window inserts, when the history is long enough."""
        insertions = self.request.insertions
        if insertions is not None and self.next_inserted is None and len(self.tokens) >= self._decision():
            self.next_inserted = insertions.choose(self.tokens, self._decision(), self.form)

    def steps_left(self) -> int:
        """Number of tokens after which the window moves."""
        return self.request.window.limit + 1 - self._history_length(self.start)

    def fork(self, candidate: int) -> Sequence:
        """A copy that grows by itself: a candidate for the next sentence, of a candidate another one that goes on from it."""
        other = copy.copy(self)
        other.tokens = self.tokens[:]
        other._matches = None if self._matches is None else self._matches.copy()
        other.likelihoods, other.logprobs = (
            ([], array("d")) if self.candidate is None else (self.likelihoods[:], self.logprobs[:])
        )
        other.rows, other.choice, other.leader, other.beaten, other.own_score = [], None, None, False, None
        other.candidate = candidate
        return other

    def adopt(self, row: Sequence) -> None:
        """Take over the tokens of a candidate that was forked from this text, with everything that depends on them."""
        self.tokens, self.start, self.next_start, self.slides = row.tokens, row.start, row.next_start, row.slides
        self.inserted, self.next_inserted = row.inserted, row.next_inserted
        self._matches, self.form = row._matches, row.form
        self.finish_reason = row.finish_reason
        self.likelihoods += row.likelihoods
        self.logprobs.extend(row.logprobs)

    def cut(self, step: int) -> None:
        """End at a stop string: drop the tokens of the last sentence after the first ``step`` generated ones."""
        surplus = self.step - step
        del self.tokens[len(self.tokens) - surplus :]
        del self.logprobs[len(self.logprobs) - surplus :]
        if self.request.logprobs is not None:
            del self.likelihoods[len(self.likelihoods) - surplus :]
        self.finish_reason = "stop"

    def sentence_ends(self, begin: int) -> bool:
        """Whether the sentence from token ``begin`` on is complete, or as long as a sentence may be."""
        request = self.request
        if self.finish_reason is not None or len(self.tokens) - begin >= SENTENCE_TOKENS:
            return True
        if request.constraint is not None:
            return request.constraint.line_ends(self.form)
        return request.sentences is not None and self.tokens[-1] in request.sentences.ends

    def _history_length(self, start: int) -> int:
        keep = self.request.window.keep
        return min(keep, len(self.tokens)) + max(0, len(self.tokens) - max(start, keep))

    def _inserted_at(self, start: int) -> Inserted:
        """What the current window, or the next one, inserts."""
        inserted = self.inserted if start == self.start else self.next_inserted
        assert inserted is not None
        return inserted

    def length(self, start: int) -> int:
        """Number of tokens that the network sees of a window at ``start``: the current one or the next, which is decided."""
        history = self._history_length(start)
        return history if self.request.insertions is None else history + len(self._inserted_at(start))

    def shown(self, start: int, first: int, count: int) -> list[int]:
        """Tokens ``first .. first + count`` of the context of a window at ``start``."""
        if self.request.insertions is not None:
            return self._inserted_at(start).context(self.tokens, start, first, count)
        keep = min(self.request.window.keep, len(self.tokens))
        kept = self.tokens[first : min(keep, first + count)]
        begin = max(start, self.request.window.keep) + max(first, keep) - keep
        return (kept + self.tokens[begin : begin + count - len(kept)]).tolist()
