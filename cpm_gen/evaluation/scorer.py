"""What a measurement needs of a model: ids of a text, and log-probabilities of ids."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from cpm_gen.config.options import StyleName
from cpm_gen.engine.window import Window
from cpm_gen.networks.interface import Segment
from cpm_gen.runtime.text_engine import TextEngine


class Scorer(Protocol):
    """A model of any kind that gives log-probabilities.

    name: for tables. unknown: ids that stand for text without a token of its own.
    """

    name: str
    unknown: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that is not blank; raises InputError."""

    def first_characters(self, ids: Sequence[int]) -> int:
        """Number of characters of the first token, which nothing predicts."""

    def score(self, ids: Sequence[int]) -> Iterator[list[float]]:
        """Natural log-probability of each token from the second on given the ones before it in the window; in parts."""

    def score_after(self, context: Sequence[int], targets: Sequence[int]) -> list[float]:
        """Natural log-probability of each target after the context and the targets before it, at least one token in all.

        ``context`` and all targets but the last must fit the network's positions.
        """


class ModelScorer:
    """A loaded model as a :class:`Scorer`.

    style: how a text becomes ids. window: which tokens the network sees (None: the model's own). A text longer than the window is
    scored as ``window.hop`` says: the first window whole, then only the tokens that are new after each move.
    """

    def __init__(self, engine: TextEngine, *, style: StyleName = "plain", window: Window | None = None) -> None:
        self.engine = engine
        self.style = style
        self.window = window or engine.window
        self.name = engine.options.model or "embedded"
        unk = engine.vocabulary.tokenizer.unk
        self.unknown = frozenset(() if unk is None else (unk,))

    def encode(self, text: str) -> list[int]:
        """See :class:`Scorer`."""
        return self.engine.vocabulary.encode(text, self.style)

    def first_characters(self, ids: Sequence[int]) -> int:
        """See :class:`Scorer`."""
        return len(self.engine.vocabulary.tokenizer.decode(ids[:1]))

    def score(self, ids: Sequence[int]) -> Iterator[list[float]]:
        """See :class:`Scorer`; one part for each place of the window."""
        return self.engine.scoring(ids, window=self.window)

    def score_after(self, context: Sequence[int], targets: Sequence[int]) -> list[float]:
        """See :class:`Scorer`."""
        ids = [*context, *targets]
        with self.engine.loaded.rank_errors():
            return self.engine.loaded.runner.score(Segment(ids[:-1]), targets)
