"""Check that an engine computes the same network: a tiny one with varied biases and norms, against cpm_gen in float32."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peers.client import Peer

PROMPTS = [[(7919 * i + 31 * p) % 2900 + 11 for i in range(19)] for p in range(3)]
TOKENS = 24
# largest difference over the logits' standard deviation; llama.cpp uses a table of fp16 numbers for GELU, the others differ by 1e-5
LIMITS = {"float32": 1e-2, "bfloat16": 0.15, "int8": 0.5}


@dataclass(frozen=True)
class Answer:
    """Results of an engine: logits after each prompt less their mean, and greedy tokens of all prompts in one batch."""

    logits: np.ndarray
    ids: list[list[int]]


def answer(peer: Peer, target: Path, dtype: str, threads: int) -> Answer:
    peer.ask("load", target=str(target), dtype=dtype, threads=threads, batch=len(PROMPTS))
    rows = np.array([peer.ask("logits", ids=p)["logits"] for p in PROMPTS], dtype=np.float64)
    done: dict[str, Any] = peer.ask("decode", prompts=PROMPTS, tokens=TOKENS, seconds=60)
    return Answer(rows - rows.mean(1, keepdims=True), done["ids"])


@dataclass(frozen=True)
class Verdict:
    """error: largest difference of a logit over the logits' standard deviation; same: equal greedy tokens from the beginning."""

    dtype: str
    error: float
    same: list[int]

    @property
    def passed(self) -> bool:
        exact = self.dtype != "float32" or all(n == TOKENS for n in self.same)
        return exact and self.error <= LIMITS[self.dtype]

    def __str__(self) -> str:
        verb = "same network" if self.passed else "ANOTHER NETWORK"
        tokens = ", ".join(map(str, self.same))
        return f"{verb}: logits within {self.error:.1e} of their spread; of {TOKENS} greedy tokens {tokens} equal"


def judge(found: Answer, reference: Answer, dtype: str) -> Verdict:
    error = float(np.abs(found.logits - reference.logits).max() / reference.logits.std())
    pairs = zip(found.ids, reference.ids, strict=True)
    return Verdict(dtype, error, [_alike(x, y) for x, y in pairs])


def _alike(one: list[int], other: list[int]) -> int:
    """How many tokens from the beginning are equal."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b), len(one))
