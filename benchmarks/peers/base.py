"""Interface of the compared engines, and the timing loop that all steppable engines share."""

from __future__ import annotations

import abc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from peers.weights import Weights

Logits = NDArray[np.float32]


class Unsupported(Exception):
    """This engine does not support the precision; the comparison continues without it."""


@dataclass(frozen=True)
class Decoded:
    """Seconds to the first tokens, seconds of each later step, and the generated ids (one list per prompt)."""

    first: float
    times: list[float]
    ids: list[list[int]]


class Engine(abc.ABC):
    """Greedy decoding of prompts of equal length.

    A steppable engine implements :meth:`first` and :meth:`step`; any other overrides :meth:`decode` and :meth:`logits`.
    """

    dtypes: ClassVar[tuple[str, ...]]

    @property
    @abc.abstractmethod
    def version(self) -> str:
        """The engine's version, with features that affect its speed."""

    @classmethod  # noqa: B027
    def convert(cls, weights: Weights, dtype: str, target: Path) -> None:
        """Write the engine's own format to the folder ``target``. Runs in its own process and is not measured."""

    @abc.abstractmethod
    def load(self, target: Path, dtype: str, threads: int, batch: int) -> None:
        """Load the folder ``target`` that :meth:`convert` wrote, for up to ``batch`` texts at once."""

    def room(self, batch: int, length: int) -> None:  # noqa: B027
        """Allocate for ``batch`` texts of up to ``length`` tokens; not timed."""

    def first(self, prompts: list[list[int]]) -> Logits:
        """Encode prompts; returns logits ``[batch, vocabulary]`` after each."""
        raise NotImplementedError

    def step(self, ids: list[int]) -> Logits:
        """Logits ``[batch, vocabulary]`` after one more token for each text."""
        raise NotImplementedError

    def end(self) -> None:  # noqa: B027
        """Drop the texts."""

    def logits(self, ids: list[int]) -> Logits:
        """Logits ``[vocabulary]`` after a prompt, for the check that the networks are equal."""
        self.room(1, len(ids) + 1)
        row = np.array(self.first([ids])[0], dtype=np.float32)
        self.end()
        return row

    def prefill(self, ids: list[int]) -> float:
        """Seconds to encode one prompt and choose its first token."""
        return self.decode([ids], 1, 0.0).first

    def decode(self, prompts: list[list[int]], tokens: int, seconds: float) -> Decoded:
        """Generate ``tokens`` tokens for each prompt, or fewer if ``seconds`` have passed."""
        self.room(len(prompts), len(prompts[0]) + tokens)
        began = time.perf_counter()
        chosen = choose(self.first(prompts))
        now = time.perf_counter()
        first, times, written = now - began, [], [chosen]
        while len(written) < tokens and now - began - first < seconds:
            before = now
            chosen = choose(self.step(chosen))
            now = time.perf_counter()
            times.append(now - before)
            written.append(chosen)
        self.end()
        return Decoded(first, times, [list(text) for text in zip(*written, strict=True)])


def choose(logits: Any) -> list[int]:
    """The most probable token of every row."""
    ids: list[int] = logits.argmax(-1).tolist()
    return ids
