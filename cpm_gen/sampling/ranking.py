"""Which of several candidates for a sentence is kept: pure functions of their texts and log-probabilities.

A candidate's score is its mean log-probability a character, less a term for the characters that earlier lines have: by likelihood alone
the same few words win everywhere. The mean of a short sentence says little, so it is drawn towards the mean of all candidates; lines
of one length keep their order. Scores are rounded before they are compared: their last digits may depend on what else is computed
at the time.

In the middle of a line of fixed length, candidates that are behind go on from those that are ahead (:func:`parents`).

Each token makes a candidate less likely. So of lines of one length, one that is behind a complete one before its end cannot be the
best any more, and need not be written to its end (:func:`own_score`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SAMENESS = 0.7  # nats a character that a sentence loses if all of its characters stand in earlier lines
BEHIND = 0.5  # share of the candidates that go on from others in the middle of a line
PRIOR = 8.0  # characters of the mean of all candidates that are added to each
DIGITS = 3  # of a score
EARLIER = 256  # tokens before a sentence that count as earlier lines


@dataclass(frozen=True)
class Sentences:
    """How token ids read, and where a sentence of free text ends.

    read: the text of ids, from the beginning of a sentence. ends: ids that end a sentence.
    """

    read: Callable[[Sequence[int]], str]
    ends: frozenset[int]


@dataclass(frozen=True)
class Scored:
    """A candidate. logprob: natural log-probability of its tokens. score: what ranks, in nats a character.

    complete: whether it was written to its end; one that was not is never kept.
    """

    token_ids: tuple[int, ...]
    text: str
    logprob: float
    score: float
    complete: bool = True


@dataclass(frozen=True)
class Choice:
    """The candidates of a sentence in the order of their numbers, and the number of the one that was kept."""

    candidates: tuple[Scored, ...]
    kept: int


def characters(text: str) -> int:
    """Number of characters and signs; white space, such as line ends, does not count."""
    return sum(not c.isspace() for c in text)


def mean_logprob(logprob: float, text: str) -> float:
    """A text's log-probability a character, rounded for comparisons."""
    return round(logprob / max(1, characters(text)), DIGITS)


def choose_sentence(
    sentences: Sentences,
    tokens: Sequence[Sequence[int]],
    logprobs: Sequence[float],
    earlier: Sequence[int],
    complete: Sequence[bool] | None = None,
) -> Choice:
    """Score candidates and keep the best complete one, of equal ones the first.

    tokens, logprobs: of each candidate. earlier: tokens before the sentence. complete: which were written to their ends; None: all.
    """
    texts = [sentences.read(ids) for ids in tokens]
    whole = complete or [True] * len(texts)
    scores = score(texts, logprobs, sentences.read(earlier))
    best = max(value for value, ended in zip(scores, whole, strict=True) if ended)
    kept = next(at for at, value in enumerate(scores) if value == best and whole[at])
    scored = [
        Scored(tuple(ids), text, logprob, value, ended)
        for ids, text, logprob, value, ended in zip(tokens, texts, logprobs, scores, whole, strict=True)
    ]
    return Choice(tuple(scored), kept)


def score(texts: Sequence[str], logprobs: Sequence[float], earlier: str) -> list[float]:
    """The score of each candidate, in nats a character, rounded. earlier: the text before them."""
    counts = [characters(text) for text in texts]
    mean = math.fsum(logprobs) / max(1, sum(counts))
    return [
        round(own_score(logprob, count, shared(text, earlier)) + round(PRIOR * mean / (count + PRIOR), DIGITS), DIGITS)
        for text, logprob, count in zip(texts, logprobs, counts, strict=True)
    ]


def parents(
    sentences: Sentences,
    tokens: Sequence[Sequence[int]],
    logprobs: Sequence[float],
    left: Sequence[int],
    earlier: Sequence[int],
) -> list[int]:
    """The number of the candidate that each goes on from in the middle of a line: those behind from those ahead, the others and 0 from
    themselves.

    A candidate's place is by its score at the line's end if the characters that are left are as likely as the mean of those that
    all have. left: the number of these.
    """
    texts, before = [sentences.read(ids) for ids in tokens], sentences.read(earlier)
    counts = [characters(text) for text in texts]
    mean = math.fsum(logprobs) / max(1, sum(counts))
    scores = [
        own_score(logprob + rest * mean, count + rest, shared(text, before))
        for text, logprob, count, rest in zip(texts, logprobs, counts, left, strict=True)
    ]
    order = sorted(range(len(texts)), key=lambda number: (-scores[number], number))
    ahead = len(order) - int(BEHIND * len(order))
    found = list(range(len(texts)))
    for parent, number in zip(itertools.cycle(order[:ahead]), filter(None, order[ahead:]), strict=False):
        found[number] = parent
    return found


def own_score(logprob: float, count: int, same: float) -> float:
    """The part of a score that does not depend on the other candidates, rounded. Among lines of ``count`` characters it decides.

    logprob: of the tokens, or of those so far: the part for the whole line is no greater. same: the share of earlier characters.
    """
    return round(logprob / (count + PRIOR) - SAMENESS * same, DIGITS)


def shared(text: str, earlier: str) -> float:
    """The share of a text's characters, without signs, that stand in ``earlier``."""
    own = [c for c in text if c.isalnum()]
    before = set(earlier)
    return sum(c in before for c in own) / max(1, len(own))
