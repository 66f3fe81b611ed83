"""Perplexity by position in long texts, for several ways to go past the window.

Texts are given (teacher-forced), so each method predicts the same tokens and only what it sees before them differs. A hop of 1 shows the
network the fullest window for every token and costs a whole pass for each; it is the standard that the others are compared with, at every
``every``-th token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cpm_gen.engine.window import Window
from cpm_gen.errors import InputError
from cpm_gen.evaluation.confidence import Floats
from cpm_gen.evaluation.scorer import ModelScorer
from cpm_gen.text.documents import Document

HOPS = (1, 64, 128, 256, 512)

Progress = Callable[[str, int, int], None]  # (method, tokens done, of)


@dataclass(frozen=True)
class Method:
    """A way past the window. window: None for the original's stale cache, which has no window that moves."""

    name: str
    window: Window | None


@dataclass(frozen=True)
class Scores:
    """Nats of each token of each text, and how long ago the window moved.

    nats: ``[texts, length]``; NaN where nothing was scored. since_slide: ``[texts, length]``, tokens since the window moved; -1 before.
    """

    method: Method
    nats: Floats
    since_slide: NDArray[np.int64]


def methods(window: Window, hops: Sequence[int] | None, keep: int | None, *, stale: bool = True) -> list[Method]:
    """The hops, the kept beginning and the stale cache, for a model's window.

    hops: None for those of ``HOPS`` that fit and the window's own, which replaces a neighbour. keep: tokens of the beginning that the
    method "keep" holds; None for the window's own, or an eighth of the limit.
    """
    own = window.hop
    chosen = sorted({own, *(h for h in HOPS if h <= window.limit and abs(h - own) != 1)} if hops is None else set(hops))
    found = [Method(f"hop {h:,}", Window(window.limit, h, window.boundary)) for h in chosen]
    kept = keep if keep is not None else window.keep or window.limit // 8
    if kept:
        hop = max(1, min(own, window.limit - kept))
        found.append(Method(f"keep {kept:,}, hop {hop:,}", Window(window.limit, hop, window.boundary, kept)))
    return [*found, Method("stale cache", None)] if stale else found


def long_texts(
    scorer: ModelScorer, documents: Sequence[Document], length: int, most: int, least: int
) -> list[list[int]]:
    """At most ``most`` texts of ``length`` token ids. Documents are joined in their order, with the end token between, and cut.

    Raises InputError if there are fewer than ``least`` tokens; one shorter text is taken if there are fewer than ``length``.
    """
    ids: list[int] = []
    for document in documents:
        if document.text.strip():
            ids += scorer.encode(document.text)
            end = scorer.engine.vocabulary.tokenizer.end
            if end is not None and ids[-1] != end:
                ids.append(end)
        if len(ids) >= most * length:
            break
    if len(ids) < least:
        raise InputError(f"the data hold {len(ids):,} tokens; the window moves first after {least - 1:,}")
    whole = [ids[at : at + length] for at in range(0, min(len(ids), most * length) - length + 1, length)]
    return whole or [ids]


def score_windows(
    scorer: ModelScorer,
    texts: Sequence[Sequence[int]],
    method: Method,
    *,
    every: int = 1,
    progress: Progress = lambda name, done, of: None,
    stop: Callable[[], bool] = lambda: False,
) -> Scores | None:
    """Score texts of one length with a window that moves; None if ``stop`` said so.

    every: past the first window, score one token of every ``every``, with a pass of the network for each. For a hop of 1, which needs
        a pass for each token.
    """
    window = method.window
    assert window is not None
    ends = scorer.engine.vocabulary.ends(window)
    shape = (len(texts), len(texts[0]))
    nats, since = np.full(shape, math.nan), np.full(shape, -1, dtype=np.int64)
    for row, ids in enumerate(texts):
        starts = window_starts(window, ids, ends)
        since[row] = _since_slide(starts)
        parts = _every_token(scorer, ids, window) if every == 1 else _some_tokens(scorer, ids, window, starts, every)
        for at, part in parts:
            nats[row, at : at + len(part)] = [-p for p in part]
            progress(method.name, row * shape[1] + at + len(part), shape[0] * shape[1])
            if stop():
                return None
    return without_unknown(Scores(method, nats, since), texts, scorer.unknown)


def without_unknown(scores: Scores, texts: Sequence[Sequence[int]], unknown: frozenset[int]) -> Scores:
    """The scores without those of unknown characters."""
    scores.nats[np.isin(np.array(texts), list(unknown))] = math.nan
    return scores


def window_starts(window: Window, ids: Sequence[int], ends: frozenset[int] | None) -> list[int]:
    """Where the window begins when each token is predicted (see :class:`cpm_gen.engine.window.Window`)."""
    starts = [window.keep]
    for at in range(1, len(ids)):
        starts.append(window.advance(ids, starts[-1], ends, at))
    return starts


def _since_slide(starts: Sequence[int]) -> list[int]:
    since, found = -1, []
    for before, now in zip([starts[0], *starts], starts, strict=False):
        since = 0 if now != before else since + (since >= 0)
        found.append(since)
    return found


def _every_token(scorer: ModelScorer, ids: Sequence[int], window: Window) -> Iterator[tuple[int, list[float]]]:
    """(index of the first, log-probabilities) of consecutive tokens."""
    at = 1
    for part in scorer.engine.scoring(ids, window=window):
        yield at, part
        at += len(part)


def _some_tokens(
    scorer: ModelScorer, ids: Sequence[int], window: Window, starts: Sequence[int], every: int
) -> Iterator[tuple[int, list[float]]]:
    yield from _every_token(scorer, ids[: window.limit + 1], window)
    for at in range(window.limit + 1, len(ids), every):
        yield at, scorer.score_after(window.context(list(ids[:at]), starts[at]), ids[at : at + 1])
