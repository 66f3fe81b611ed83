"""The setting ``logit_bias``: entries ``ID:BIAS``, a token id and what is added to its logit, ``52:-1.5``."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

_ENTRY = re.compile(r"([0-9]{1,10}):([+-]?[0-9]+(?:\.[0-9]*)?(?:e[+-]?[0-9]+)?)", re.ASCII)
_MOST = 100.0  # as in OpenAI's API
_MOST_ID = 2**31 - 1


def bias_of(entry: str) -> tuple[int, float]:
    """The token id and the bias of one entry; raises ValueError."""
    found = _ENTRY.fullmatch(entry)
    if found is None or int(found[1]) > _MOST_ID:
        raise ValueError("must be ID:BIAS, a token id and a number")
    bias = float(found[2])
    _check(bias)
    return int(found[1]), bias


def _check(bias: float) -> None:
    if not abs(bias) <= _MOST:  # so NaN is refused too, and a whole number is not converted, which may overflow
        raise ValueError("must have biases from -100 to 100")


def checked(entry: str) -> str:
    """The entry itself, if it can be read; raises ValueError."""
    bias_of(entry)
    return entry


@functools.lru_cache(maxsize=64)  # the same at every step
def biases(entries: tuple[str, ...]) -> dict[int, float]:
    """The bias of each token id; of several for the same id the last."""
    return dict(map(bias_of, entries))


def entries_of(biases: Mapping[Any, Any]) -> tuple[str, ...]:
    """The entries for an object of ids and biases, as OpenAI's clients have it; raises ValueError for what is none."""
    entries = []
    for token, bias in biases.items():
        if isinstance(bias, bool) or not isinstance(bias, (int, float)):
            raise ValueError("must have a number for each token id")
        _check(bias)  # before it is written out: a whole number may have thousands of digits
        entries.append(checked(f"{token}:{bias!r}" if isinstance(bias, int) else f"{token}:{float(bias)!r}"))
    return tuple(entries)
