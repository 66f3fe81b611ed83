"""Words and YAML values as the types of settings."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from cpm_gen.errors import ConfigError


def fit(name: str, value: Any, hint: Any, where: str) -> Any:
    """``value`` as the type that ``hint`` says; raises ConfigError, naming the setting and ``where`` it was read."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None and type(None) in options:
        return None
    for kind in options:
        if typing.get_origin(kind) is Literal:
            if value in typing.get_args(kind):
                return value
        elif kind is bool:
            if isinstance(value, bool):
                return value
            if str(value).lower() in ("true", "yes", "on", "1"):
                return True
            if str(value).lower() in ("false", "no", "off", "0"):
                return False
        elif kind in (int, float) and not isinstance(value, bool):
            if isinstance(value, (int, str)) or (kind is float and isinstance(value, float)):
                try:
                    return kind(value)
                except (ValueError, OverflowError):
                    continue
        elif kind is str:
            if isinstance(value, (str, os.PathLike)):
                return str(value)
        elif typing.get_origin(kind) is tuple:
            item = typing.get_args(kind)[0]
            items = value
            if isinstance(value, str):
                items = [v.strip() for v in value.split(",") if v.strip()] if item is int else [value]
            if isinstance(items, Sequence):
                if all(type(v) is item for v in items):
                    return tuple(items)
                if item is int and all(isinstance(v, str) and v.isdecimal() for v in items):
                    return tuple(int(v) for v in items)
    expected = ", ".join(_words(kind) for kind in options if kind is not type(None))
    raise ConfigError(f"{where}: {name} must be {expected}, not {value!r}")


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return "whole numbers separated by commas" if typing.get_args(kind)[0] is int else "a list of texts"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]
