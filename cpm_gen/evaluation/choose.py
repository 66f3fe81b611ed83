"""Zero-shot choice by likelihood, as CPM-1 does it: the label whose prompt makes the text most likely.

Prompt and text are encoded separately and joined, so the text's tokens are the same for every label. The text is cut to ``length`` less
``RESERVED`` ids, and further where the longest prompt leaves less room. Only the text's tokens are scored.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpm_gen.errors import ConfigError, InputError
from cpm_gen.evaluation.confidence import Figure, Floats, bootstrap
from cpm_gen.evaluation.scorer import Scorer
from cpm_gen.evaluation.tasks import Score, Task

RESERVED = 20  # ids of ``length`` that are left for the prompt


@dataclass(frozen=True)
class Choice:
    """A record's result. losses: of each label that was tried, by value, in the order tried; the smallest is the prediction.

    line: of the record. answer: the right label's value, None where the record has none.
    """

    line: int
    prediction: str
    answer: str | None
    losses: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        right = None if self.answer is None else self.prediction == self.answer
        return {
            "line": self.line,
            "prediction": self.prediction,
            "answer": self.answer,
            "right": right,
            "losses": dict(self.losses),
        }


def choose(
    scorer: Scorer, task: Task, records: Iterable[tuple[int, Mapping[str, Any]]], *, length: int, seed: int = 0
) -> Iterator[Choice]:
    """Choose a label for each (line, record), one by one; records whose answer is to be skipped are left out.

    length: most ids of prompt and text together, at most the network's positions. seed: of the labels that are tried beside the right
    one; a record's depend on its line alone. Raises InputError that names the line for a record that does not fit the task, and
    ConfigError for a length that leaves no room.
    """
    if length <= RESERVED:
        raise ConfigError(f"the length must be above {RESERVED}, which are left for the prompt, not {length}")
    for line, record in records:
        try:
            answer = task.right(record)
            if answer is None or answer not in task.skip:
                yield _choose(scorer, task, record, line, answer, length, random.Random(f"{seed}:{line}"))
        except InputError as error:
            raise InputError(f"line {line}: {error}") from None


def accuracy(choices: Sequence[Choice], seed: int = 0) -> Figure | None:
    """Share of right predictions among the records that have an answer, with its interval; None if none has one."""
    right = np.array([[1.0, c.prediction == c.answer] for c in choices if c.answer is not None])
    if not len(right):
        return None
    found = bootstrap(right, _share, seed)
    return Figure.of(float(right[:, 1].mean()), found[0] if found else None)


def _share(sums: Floats) -> Floats:
    shares: Floats = sums[:, 1:] / sums[:, :1]
    return shares


def _choose(
    scorer: Scorer,
    task: Task,
    record: Mapping[str, Any],
    line: int,
    answer: str | None,
    length: int,
    draw: random.Random,
) -> Choice:
    prompts, text = task.texts(record)
    encoded = {value: scorer.encode(prompts[value]) for value in _tried(task, answer, draw)}
    longest = max(map(len, encoded.values()))
    span = (scorer.encode(text) if text.strip() else [])[: min(length - RESERVED, length - longest)]
    if not span:
        why = "the text is empty" if not text.strip() else f"the prompt has {longest} tokens, the length is {length}"
        raise InputError(f"nothing to score: {why}")
    losses = {value: _loss(scorer.score_after(prompt, span), task.score) for value, prompt in encoded.items()}
    return Choice(line, min(losses, key=lambda value: losses[value]), answer, losses)


def _tried(task: Task, answer: str | None, draw: random.Random) -> list[str]:
    """The labels that a record is tried with, in order."""
    if not task.candidates:
        return list(task.labels)
    if answer is None:
        raise InputError(f'needs "{task.answer}": with {task.candidates} candidates, the right one is among them')
    others = [value for value in task.labels if value != answer]
    return [*draw.sample(others, task.candidates - 1), answer]


def _loss(logprobs: Sequence[float], score: Score) -> float:
    total = -math.fsum(logprobs)
    return total / len(logprobs) if score == "mean" else total
