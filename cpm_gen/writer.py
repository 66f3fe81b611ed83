"""From an engine's tokens to text."""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Sequence

from cpm_gen.engine import Engine
from cpm_gen.results import Chunk, Completion, Timing
from cpm_gen.sequence import FinishReason, Request
from cpm_gen.text import StopScanner
from cpm_gen.tokenizer import Detokenizer


class Writer:
    """Turns one generation's tokens into chunks of text, put into ``ready``; ends it at a stop string.

    A request that goes on after tokens ``written`` before is read from its beginning, so that its chunks join to the ``shown``
    characters given out then. That may be fewer than those tokens say, where a stop ended the text that is passed over now, or
    more, where its end let out what a stop string might have begun with.

    place: the request's place among those that were begun together.
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
        self.pieces: list[str] = []
        self._ends = array("Q")  # how many characters were written up to and with each token
        for token in request.written:
            self.pieces.append(self._read(token, step=len(self._ends) + 1))
        read = "".join(self.pieces)
        shown = len(read) if shown is None else shown
        self._owed = read[shown:]
        self._surplus = max(0, shown - len(read))
        self.generation = engine.add(request)

    def advance(self) -> None:
        """Take the token that the engine just wrote."""
        generation = self.generation
        if generation.failure is not None:
            self.done = True
            return
        now = time.monotonic()
        self.first = self.first or now
        token = generation.tokens[-1]
        text = "" if generation.finish_reason == "stop" else self._read(token, generation.step)
        if self.scanner.found and generation.finish_reason is None:
            self.engine.cancel(generation, "stop")
        self._put(text, (token,), "stop" if self.scanner.found else generation.finish_reason, now)

    def _read(self, token: int, step: int) -> str:
        """What may be shown after the token that was written at ``step``."""
        piece = self.detokenizer.push(token)
        self._ends.append((self._ends[-1] if self._ends else 0) + len(piece))
        return self.scanner.push(piece, look=step >= self.minimum)

    def cancel(self) -> None:
        """End the sample where it is."""
        self.engine.cancel(self.generation)
        self._put("", (), "cancelled", time.monotonic())

    def _put(self, text: str, ids: tuple[int, ...], reason: FinishReason | None, now: float) -> None:
        generation = self.generation
        if reason:
            text += self.scanner.flush()
        self.pieces.append(text)
        text, self._owed, self._surplus = (
            self._owed + text[self._surplus :],
            "",
            max(0, self._surplus - len(text)),
        )
        self.done = reason is not None
        unseen = generation.start - len(generation.request.prompt)
        self.ready.append(
            Chunk(
                text,
                ids,
                self.prompt,
                generation.request.sample_index,
                self.place,
                generation.start,
                generation.slides,
                completion=self._completion(reason, now) if reason else None,
                text_start=self._ends[min(unseen, len(self._ends)) - 1] if unseen > 0 and self._ends else 0,
                likelihoods=tuple(generation.likelihoods[-len(ids) :]) if ids else (),
            )
        )

    def _completion(self, reason: FinishReason, now: float) -> Completion:
        generation = self.generation
        count, first = generation.step - len(generation.request.written), self.first
        rate = (count - 1) / (now - first) if first is not None and count > 1 and now > first else None
        return Completion(
            text="".join(self.pieces),
            token_ids=tuple(generation.new_tokens),
            prompt_token_ids=generation.request.prompt,
            finish_reason=reason,
            seed=generation.request.seed,
            index=generation.request.sample_index,
            window_slides=generation.slides,
            timing=Timing(None if first is None else first - self.began, rate),
        )
