"""Words from flags, environment variables, YAML and keyword arguments, as the types of settings."""

from __future__ import annotations

import numbers
import os
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic.fields import FieldInfo

from cpm_gen.config.arguments import plain, shown
from cpm_gen.config.fields import alternatives, item_type, none_word, takes_pairs
from cpm_gen.config.logit_bias import entries_of

_BOOLEANS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)


def from_words(value: Any, field: FieldInfo) -> Any:
    """``value`` as the setting's type, where it reads as one; otherwise as it is, for the declaration to refuse.

    Numbers and arrays of numpy and torch become Python's, paths become text, lists become tuples.
    """
    value = plain(value)
    if isinstance(value, str) and value == none_word(field):
        return None
    if isinstance(value, Mapping) and takes_pairs(field):
        try:
            return entries_of(value)
        except ValueError:
            return tuple(f"{key}:{entry}" for key, entry in value.items())  # the declaration says what is wrong
    for kind in alternatives(field.annotation):
        if typing.get_origin(kind) is Literal:
            continue
        read = _list(value, item_type(kind)) if item_type(kind) else _single(value, kind)
        if read is not value:
            return read
    return value


def _single(value: Any, kind: Any) -> Any:
    if kind is bool:
        word = value if isinstance(value, str) else shown(value)
        return _BOOLEANS.get(word.lower(), value) if isinstance(value, (str, int)) else value
    if kind is str:
        return os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            return value
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if kind is float and isinstance(value, numbers.Real) else value


def _list(value: Any, item: Any) -> Any:
    if isinstance(value, str):
        entries: Sequence[Any] = [v.strip() for v in value.split(",") if v.strip()] if item is int else [value]
    elif isinstance(value, Sequence):
        entries = [plain(v) for v in value] if item is int else value
    else:
        return value
    if item is int and all(isinstance(v, str) and v.isdecimal() for v in entries):
        return tuple(int(v) for v in entries)
    return value if isinstance(value, str) and item is int else tuple(entries)
