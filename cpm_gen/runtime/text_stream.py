"""Turns the tokens of one generation into chunks of text."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from cpm_gen.engine.engine import Engine
from cpm_gen.engine.sequence import FinishReason, Request
from cpm_gen.outputs import Chunk, Completion, Sentence, SentenceCandidate, Timing
from cpm_gen.sampling.ranking import Choice, mean_logprob
from cpm_gen.text.stop_strings import StopScanner
from cpm_gen.text.tokenizer import Detokenizer


class TextStream:
    """Appends a chunk to ``ready`` for each token of a generation, or each sentence of one with candidates; ends it at a stop string.

    A request that continues an earlier run decodes the tokens ``written`` from the beginning, so that its chunks continue the
    ``shown`` characters which that run returned. ``shown`` may be fewer characters than those tokens give, if a stop string
    ended the text there that is ignored now, or more, if the end of the text released the possible beginning of a stop string.
    With ``shown`` the caller keeps the text: the stream keeps none, and there is no Completion at its end.

    generation: the sequence of token ids. place: the request's index among those that were begun together. done: whether the
    last chunk was appended. token_ends, pieces: what is kept of the text.
    """

    def __init__(
        self,
        engine: Engine,
        request: Request,
        detokenizer: Detokenizer,
        stop: Sequence[str],
        prompt: int,
        ready: deque[Chunk],
        *,
        place: int = 0,
        shown: int | None = None,
    ) -> None:
        self.began = time.monotonic()
        self.first: float | None = None
        self.done = False
        self.prompt = prompt
        self.place = place
        self.ready = ready
        self.engine = engine
        self.detokenizer = detokenizer
        self.scanner = StopScanner(stop)
        self.minimum = request.params.min_new_tokens
        self.pieces: list[str] | None = [] if shown is None else None
        # number of characters up to and including each token, for the tokens of the window
        self.token_ends: deque[int] = deque()
        self._end = 0  # the last of them
        self._unseen = 0  # generated tokens before the window
        self._taken = len(request.written)  # generated tokens that were read
        self._text_start = 0  # their characters
        read = "".join(self._read(token, step) for step, token in enumerate(request.written, 1))
        if self.pieces is not None:
            self.pieces.append(read)
        shown = len(read) if shown is None else shown
        self._owed = read[shown:]
        self._surplus = max(0, shown - len(read))
        self.generation = engine.add(request)

    def advance(self) -> None:
        """Take the tokens of the last step: one, or those of a sentence."""
        generation = self.generation
        if generation.failure is not None:
            self.done = True
            return
        now = time.monotonic()
        self.first = self.first or now
        tokens = tuple(generation.tokens[len(generation.request.prompt) + self._taken :])
        text, choice = "", generation.choice
        for token in tokens:
            self._taken += 1
            if self._taken == generation.step and generation.finish_reason == "stop":
                break  # the token that ends the text is not read
            text += self._read(token, self._taken)
            if self.scanner.found:
                break
        if self.scanner.found:
            tokens = tokens[: len(tokens) - (generation.step - self._taken)]
            if self._taken < generation.step:
                generation.cut(self._taken)
                choice = None  # the text does not have the sentence as it was chosen
            self.engine.cancel(generation, "stop")
        reason = "stop" if self.scanner.found else generation.finish_reason
        self._put(text, tokens, reason, now, choice)

    def _read(self, token: int, step: int) -> str:
        """The text that is certain after the token generated at ``step``."""
        piece = self.detokenizer.push(token)
        self._end += len(piece)
        self.token_ends.append(self._end)
        return self.scanner.push(piece, look=step >= self.minimum)

    def cancel(self) -> None:
        """End the sample with a last chunk whose finish reason is "cancelled"."""
        self.engine.cancel(self.generation)
        self._put("", (), "cancelled", time.monotonic())

    def _put(
        self, text: str, ids: tuple[int, ...], reason: FinishReason | None, now: float, choice: Choice | None = None
    ) -> None:
        generation = self.generation
        if reason:
            if self.pieces is not None and self.scanner.found is None:
                # a character whose end was not written; a text that is kept elsewhere may be continued, and waits for it
                text += self.scanner.push(self.detokenizer.flush(), look=False)
            text += self.scanner.flush()
        if self.pieces is not None:
            self.pieces.append(text)
        text, self._owed, self._surplus = (
            self._owed + text[self._surplus :],
            "",
            max(0, self._surplus - len(text)),
        )
        self.done = reason is not None
        while self.token_ends and self._unseen < generation.start - len(generation.request.prompt):
            self._text_start = self.token_ends.popleft()
            self._unseen += 1
        self.ready.append(
            Chunk(
                text,
                ids,
                self.prompt,
                generation.request.sample_index,
                self.place,
                generation.start,
                generation.slides,
                finish_reason=reason,
                completion=self._completion(self.pieces, reason, now) if reason and self.pieces is not None else None,
                text_start=self._text_start,
                in_sight=generation.inserted.shown,
                left_out=generation.inserted.left_out,
                likelihoods=tuple(generation.likelihoods[-len(ids) :]) if ids else (),
                sentences=() if choice is None else (_sentence(choice),),
            )
        )

    def _completion(self, pieces: Sequence[str], reason: FinishReason, now: float) -> Completion:
        generation = self.generation
        count, first = generation.step - len(generation.request.written), self.first
        whole = "".join(pieces)
        scored = (generation.request.scored or generation.choice is not None) and not generation.request.written
        rate = (count - 1) / (now - first) if first is not None and count > 1 and now > first else None
        return Completion(
            text=whole,
            token_ids=tuple(generation.new_tokens),
            prompt_token_ids=generation.request.prompt,
            finish_reason=reason,
            seed=generation.request.seed,
            index=generation.request.sample_index,
            window_slides=generation.slides,
            in_sight=generation.inserted.shown,
            left_out=generation.inserted.left_out,
            timing=Timing(None if first is None else first - self.began, rate),
            # the stop string's tokens count, and so do its characters
            logprob=mean_logprob(generation.logprob, whole + (self.scanner.found or "")) if scored else None,
        )


def _sentence(choice: Choice) -> Sentence:
    candidates = (SentenceCandidate(c.text, mean_logprob(c.logprob, c.text), c.score) for c in choice.candidates)
    return Sentence(tuple(candidates), choice.kept)
