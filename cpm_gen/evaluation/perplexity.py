"""Perplexity of a model on documents, with confidence, and the difference of two models.

Loss is the mean negative natural log-probability. A document's first token is not scored: nothing precedes it. Neither are unknown
characters (``<unk>``): a model need not have learned to write them; they are counted apart.

Characters make models with different tokenizers comparable. They are those of the text, less the first token's and one for each
unknown token.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cpm_gen.errors import InputError
from cpm_gen.evaluation.confidence import LEVEL, Figure, Floats, Interval, bootstrap
from cpm_gen.evaluation.scorer import Scorer
from cpm_gen.sampling.logprobs import perplexity
from cpm_gen.text.documents import Document

Progress = Callable[[int, int], None]  # (characters done, tokens scored)


@dataclass(frozen=True)
class DocumentScore:
    """A document's sums.

    tokens: scored. unknown: tokens left out. characters: of what was scored. nats: the negative log-probability of it.
    token_hash: of all its tokens, to tell tokenizers apart. complete: False if the measurement ended within it.
    """

    name: str
    tokens: int
    unknown: int
    characters: float
    nats: float
    token_hash: int
    complete: bool


@dataclass(frozen=True)
class Evaluation:
    """A model's scores.

    seconds: spent in the model. short: names of documents with fewer than two tokens, which are left out. interrupted: whether
    it ended early. seed: of the confidence intervals.
    """

    model: str
    documents: tuple[DocumentScore, ...]
    seconds: float
    short: tuple[str, ...]
    interrupted: bool
    seed: int

    @property
    def tokens(self) -> int:
        """Number of scored tokens."""
        return sum(d.tokens for d in self.documents)

    @property
    def unknown(self) -> int:
        """Number of tokens left out because they stand for unknown characters."""
        return sum(d.unknown for d in self.documents)

    @property
    def characters(self) -> float:
        """Number of characters of what was scored."""
        return sum(d.characters for d in self.documents)

    @property
    def tokens_per_second(self) -> float:
        """Scored tokens per second in the model."""
        return self.tokens / self.seconds

    def figures(self) -> dict[str, Figure]:
        """Losses, perplexities and bits, with their intervals, by name."""
        counts = _counts(self.documents)
        values = _losses(counts.sum(0, keepdims=True))[0]
        intervals: Sequence[Interval | None] = bootstrap(counts, _losses, self.seed) or (None, None)
        found = {}
        for unit, value, interval in zip(("token", "character"), values.tolist(), intervals, strict=True):
            for name, function in (("loss", float), ("perplexity", _perplexity), ("bits", _bits)):
                if (name, unit) != ("bits", "token"):
                    found[f"{name}_per_{unit}"] = Figure.of(value, interval, function)
        return found

    def to_json(self) -> dict[str, Any]:
        """The report as plain data; see docs/quality.md for its fields."""
        figures = {name: figure.to_json() for name, figure in self.figures().items()}
        return {
            "model": self.model,
            "documents": len(self.documents),
            "short_documents": len(self.short),
            "tokens": self.tokens,
            "unknown_tokens": self.unknown,
            "characters": round(self.characters),
            "confidence": LEVEL,
            "seed": self.seed,
            **figures,
            "tokens_per_second": self.tokens_per_second,
            "seconds": self.seconds,
            "interrupted": self.interrupted,
        }


@dataclass(frozen=True)
class Difference:
    """This model less the other, over documents that both scored whole: below zero, this one is better.

    per_token: None where the two have different tokens, so that their losses per token say nothing.
    """

    documents: int
    per_character: Figure
    per_token: Figure | None

    @property
    def better(self) -> str | None:
        """ "this" or "other" where the interval excludes zero; None where it does not."""
        ends = self.per_character.interval
        if ends is None or ends[0] is None or ends[1] is None or ends[0] <= 0 <= ends[1]:
            return None
        return "this" if ends[1] < 0 else "other"

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "documents": self.documents,
            "loss_per_character": self.per_character.to_json(),
            "loss_per_token": self.per_token and self.per_token.to_json(),
            "better": self.better,
        }


def evaluate(
    scorer: Scorer,
    documents: Iterable[Document],
    *,
    seed: int = 0,
    progress: Progress = lambda characters, tokens: None,
    stop: Callable[[], bool] = lambda: False,
) -> Evaluation:
    """Score documents one by one.

    seed: of the confidence intervals. progress: called after each pass of the network. stop: asked then; True ends the measurement
    with what is scored so far. Raises InputError if no document has two tokens, and for text that cannot be encoded.
    """
    scored: list[DocumentScore] = []
    short: list[str] = []
    seconds, passed, interrupted = 0.0, 0, False
    tokens = 0
    for document in documents:
        ids = _encode(scorer, document)
        if len(ids) < 2:
            short.append(document.name)
            continue
        logprobs: list[float] = []
        began = time.perf_counter()
        for part in scorer.score(ids):
            logprobs += part
            progress(passed + len(document.text) * (1 + len(logprobs)) // len(ids), tokens + len(logprobs))
            if interrupted := stop():
                break
        seconds += time.perf_counter() - began
        passed += len(document.text)
        tokens += len(logprobs)
        if logprobs:
            scored.append(_document_score(scorer, document, ids, logprobs))
        if interrupted:
            break
    if not any(d.tokens for d in scored):
        raise InputError(_nothing_scored(scored, short, interrupted))
    return Evaluation(scorer.name, tuple(scored), seconds, tuple(short), interrupted, seed)


def difference(this: Evaluation, other: Evaluation) -> Difference | None:
    """The paired difference; None if there is no document that both scored whole."""
    others = {d.name: d for d in other.documents if d.complete}
    pairs = [(d, others[d.name]) for d in this.documents if d.complete and d.name in others]
    if not pairs:
        return None
    counts = np.concatenate([_counts([a for a, _ in pairs]), _counts([b for _, b in pairs])], axis=1)
    values = _differences(counts.sum(0, keepdims=True))[0].tolist()
    intervals: Sequence[Interval | None] = bootstrap(counts, _differences, this.seed) or (None, None)
    per_token, per_character = (Figure.of(v, i) for v, i in zip(values, intervals, strict=True))
    same_tokens = all((a.token_hash, a.tokens) == (b.token_hash, b.tokens) for a, b in pairs)
    return Difference(len(pairs), per_character, per_token if same_tokens else None)


def _encode(scorer: Scorer, document: Document) -> list[int]:
    try:
        return scorer.encode(document.text) if document.text.strip() else []
    except InputError as error:
        raise InputError(f"{document.name}: {error}") from None


def _document_score(scorer: Scorer, document: Document, ids: Sequence[int], logprobs: Sequence[float]) -> DocumentScore:
    known = [p for p, i in zip(logprobs, ids[1:], strict=False) if i not in scorer.unknown]
    unknown = len(logprobs) - len(known)
    complete = len(logprobs) == len(ids) - 1
    share = len(logprobs) / (len(ids) - 1)
    characters = (len(document.text.strip()) - scorer.first_characters(ids)) * share - unknown
    nats = -math.fsum(known)
    return DocumentScore(document.name, len(known), unknown, max(characters, 0.0), nats, hash(tuple(ids)), complete)


def _nothing_scored(scored: Sequence[DocumentScore], short: Sequence[str], interrupted: bool) -> str:
    if interrupted:
        return "interrupted before anything was scored"
    if scored:
        return f"{scored[0].name}: the vocabulary knows none of its characters after the first token"
    if not short:
        return "there is no document"
    names = short[0] + (f" (and {len(short) - 1} more)" if len(short) > 1 else "")
    return f"{names}: fewer than two tokens, so there is nothing to score"


def _counts(documents: Sequence[DocumentScore]) -> Floats:
    return np.array([[d.tokens, d.characters, d.nats] for d in documents], dtype=np.float64)


def _losses(sums: Floats) -> Floats:
    """``[draws, 3]`` sums to nats per token and per character ``[draws, 2]``."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[:, 2:3] / sums[:, :2]


def _differences(sums: Floats) -> Floats:
    """``[draws, 6]`` sums of two models to differences of losses ``[draws, 2]``."""
    with np.errstate(invalid="ignore"):
        return _losses(sums[:, :3]) - _losses(sums[:, 3:])


def _perplexity(nats: float) -> float | None:
    return perplexity([-nats])


def _bits(nats: float) -> float:
    return nats / math.log(2)
