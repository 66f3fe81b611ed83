"""Writes the texts of lines with one model: a line joins the batch of the engine as soon as there is a place."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from cpm_gen.batch.line_text import LineText, line_text
from cpm_gen.batch.lines import Line, Result
from cpm_gen.config.resolve import Settings
from cpm_gen.errors import ConfigError, InputError, NumericsError, TokenizerError
from cpm_gen.outputs import Chunk, Completion, by_logprob
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.runtime.text_stream import TextStream


@dataclass(eq=False)
class _Open:
    """A line whose texts are being written."""

    line: Line
    wanted: LineText
    streams: list[TextStream]
    chunks: deque[Chunk]
    done: list[Completion] = field(default_factory=list)

    @property
    def places(self) -> int:
        """Places of the batch that it takes or waits for."""
        return self.wanted.text.candidates * sum(not stream.done for stream in self.streams)

    @property
    def failure(self) -> NumericsError | None:
        return next((s.generation.failure for s in self.streams if s.generation.failure), None)


class Writer:
    """The lines that one engine writes side by side. settings: the command's, which those of a line replace."""

    def __init__(self, engine: TextEngine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._open: list[_Open] = []
        self._failed: list[Result] = []

    @property
    def room(self) -> bool:
        """Whether a place of the batch is free."""
        return sum(each.places for each in self._open) < self._engine.options.batch

    @property
    def busy(self) -> bool:
        """Whether there are results to come."""
        return bool(self._open or self._failed)

    def give(self, line: Line) -> None:
        """Begin the texts of a line. A line that cannot be written is one of the next results."""
        try:
            self._begin(line)
        except (ConfigError, InputError, TokenizerError) as error:
            self._fail(line, error)

    def results(self) -> list[Result]:
        """Run one step; returns the results that are complete."""
        if self._open:
            self._engine.step()
        found, self._failed = self._failed, []
        for each in self._open:
            while each.chunks:
                if (completion := each.chunks.popleft().completion) is not None:
                    each.done.append(completion)
        for each in [e for e in self._open if e.failure or not e.places]:
            self._open.remove(each)
            self._engine.end(each.streams)
            if failure := each.failure:
                found.append((each.line.number, each.line.failed(f"line {each.line.number}: {failure}")))
            else:
                found.append((each.line.number, _result(each)))
        return found

    def _begin(self, line: Line) -> None:
        wanted = line_text(line, self._settings)
        prompt, text = wanted.prompt, wanted.text
        ids = prompt if isinstance(prompt, list) else self._engine.vocabulary.begin_ids(prompt, text)
        chunks: deque[Chunk] = deque()
        requests = self._engine.requests([ids], wanted.sampling, text)
        self._open.append(_Open(line, wanted, self._engine.begin(requests, text, chunks), chunks))

    def _fail(self, line: Line, error: Exception) -> None:
        self._failed.append((line.number, line.failed(f"line {line.number}: {error}")))


def _result(each: _Open) -> dict[str, Any]:
    text = each.wanted.text
    done = sorted(each.done, key=lambda c: (by_logprob(c) if text.rank else 0, c.index))
    texts = _sample(done[0]) if text.n == 1 else {"samples": [_sample(completion) for completion in done]}
    return {"id": each.line.id, **texts, "seed": text.seed}


def _sample(completion: Completion) -> dict[str, Any]:
    found = {
        "text": completion.text,
        "token_ids": list(completion.token_ids),
        "finish_reason": completion.finish_reason,
    }
    return found if completion.logprob is None else found | {"logprob": completion.logprob}
