"""From an engine's tokens to text."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from cpm_gen.engine import Engine
from cpm_gen.results import Chunk, Completion, Timing
from cpm_gen.sequence import FinishReason, Request
from cpm_gen.text import StopScanner
from cpm_gen.tokenizer import Detokenizer


class Writer:
    """Turns one generation's tokens into chunks of text, put into ``ready``; ends it at a stop string."""

    def __init__(
        self,
        engine: Engine,
        request: Request,
        detokenizer: Detokenizer,
        stop: Sequence[str],
        prompt: int,
        ready: deque[Chunk],
    ) -> None:
        self.began = time.monotonic()
        self.first: float | None = None
        self.done = False
        self.prompt = prompt
        self.ready = ready
        self.engine = engine
        self.detokenizer = detokenizer
        self.scanner = StopScanner(stop)
        self.pieces: list[str] = []
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
        ended_by_id = generation.finish_reason == "stop"
        piece = "" if ended_by_id else self.detokenizer.push(token)
        text = self.scanner.push(piece, look=generation.step >= generation.request.params.min_new_tokens)
        if self.scanner.found and generation.finish_reason is None:
            self.engine.cancel(generation, "stop")
        self._put(text, (token,), "stop" if self.scanner.found else generation.finish_reason, now)

    def cancel(self) -> None:
        """End the sample where it is."""
        self.engine.cancel(self.generation)
        self._put("", (), "cancelled", time.monotonic())

    def _put(self, text: str, ids: tuple[int, ...], reason: FinishReason | None, now: float) -> None:
        generation = self.generation
        if reason:
            text += self.scanner.flush()
        self.pieces.append(text)
        self.done = reason is not None
        completion = self._completion(reason, now) if reason else None
        self.ready.append(
            Chunk(
                text, ids, self.prompt, generation.request.sample_index, generation.start, generation.slides, completion
            )
        )

    def _completion(self, reason: FinishReason, now: float) -> Completion:
        generation = self.generation
        count, first = generation.step, self.first
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
