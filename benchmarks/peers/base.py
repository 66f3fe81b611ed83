"""What every engine of the comparison can do, and how its time is taken: the same loop for all that can be stepped."""

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
    """This engine has no such precision; the comparison goes on without it."""


@dataclass(frozen=True)
class Decoded:
    """Seconds to the first tokens, seconds of every step after that, and what was written (one list per prompt)."""

    first: float
    times: list[float]
    ids: list[list[int]]


class Engine(abc.ABC):
    """Greedy decoding of prompts of equal length.

    An engine that can be stepped has :meth:`first` and :meth:`step`; one that cannot replaces :meth:`decode` and :meth:`logits`.
    """

    dtypes: ClassVar[tuple[str, ...]]

    @property
    @abc.abstractmethod
    def version(self) -> str:
        """The engine's version, with what matters for its speed."""

    @classmethod  # noqa: B027
    def convert(cls, weights: Weights, dtype: str, target: Path) -> None:
        """Write the engine's own format to the folder ``target``. Runs in a process of its own: no part of memory or time."""

    @abc.abstractmethod
    def load(self, target: Path, dtype: str, threads: int, batch: int) -> None:
        """Make ready for up to ``batch`` texts at once. ``target`` is what :meth:`convert` wrote."""

    def room(self, batch: int, length: int) -> None:  # noqa: B027
        """Make room for ``batch`` texts of up to ``length`` tokens; not timed."""

    def first(self, prompts: list[list[int]]) -> Logits:
        """Encode prompts; logits ``[batch, vocabulary]`` after each."""
        raise NotImplementedError

    def step(self, ids: list[int]) -> Logits:
        """Logits after one token more for each text."""
        raise NotImplementedError

    def end(self) -> None:  # noqa: B027
        """Forget the texts."""

    def logits(self, ids: list[int]) -> Logits:
        """Logits ``[vocabulary]`` after a prompt: what the comparison of networks looks at."""
        self.room(1, len(ids) + 1)
        row = np.array(self.first([ids])[0], dtype=np.float32)
        self.end()
        return row

    def prefill(self, ids: list[int]) -> float:
        """Seconds to encode one prompt and choose its first token."""
        return self.decode([ids], 1, 0.0).first

    def decode(self, prompts: list[list[int]], tokens: int, seconds: float) -> Decoded:
        """Write ``tokens`` tokens to each prompt, or fewer when ``seconds`` have passed."""
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
