"""Arguments of Python callers: whole numbers, token ids and paths of any library's types, as Python's own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cpm_gen.errors import CpmGenError, InputError

_SHOWN = 80  # most characters of a wrong value in an error


def plain(value: Any) -> Any:
    """Scalars and arrays of numpy and torch as numbers and lists of Python; any other value as it is."""
    return value.tolist() if callable(getattr(value, "tolist", None)) and not isinstance(value, type) else value


def shown(value: Any) -> str:
    """A wrong value as an error shows it."""
    try:
        text = repr(value)
    except Exception:
        text = ""
    return text if 0 < len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({type(value).__name__})".removeprefix("… ")


def one_line(text: object, most: int = 300) -> str:
    """Another library's message, or a part of a file, as an error shows it: at most ``most`` printable characters in one line."""
    line = "".join(c if c.isprintable() else " " for c in str(text)[: 10 * most])
    line = " ".join(line.split())
    return line if len(line) <= most else line[:most] + "…"


def bytes_text(count: float) -> str:
    """A number of bytes as a message shows it: ``1500000`` is ``1.5 MB``."""
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB"):
        if value >= 1000:
            value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"


def whole_number(value: Any, name: str, least: int | None = None, error: type[CpmGenError] = InputError) -> int:
    """``value`` as an int; raises ``error`` for another kind of value or a number below ``least``, if there is a least."""
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int):
        raise error(f"{name} must be a whole number, not {shown(value)}")
    if least is not None and number < least:
        raise error(f"{name} must be at least {least}, not {shown(number)}")
    return number


def token_ids(values: Any, most: int, name: str = "token ids") -> list[int]:
    """``values``, an iterable of whole numbers from 0 to ``most``, as a list of ints; raises InputError."""
    values = plain(values)
    if isinstance(values, (str, bytes, bytearray, Mapping)) or not isinstance(values, Iterable):
        raise InputError(f"{name} must be a list of whole numbers, not {shown(values)}")
    ids = list(values)
    for at, value in enumerate(ids):
        number = value if type(value) is int else plain(value)
        if type(number) is not int or not 0 <= number <= most:
            raise InputError(f"token id {shown(value)} is not a whole number from 0 to {most}")
        ids[at] = number
    return ids


def path_argument(value: Any, name: str, error: type[CpmGenError] = InputError) -> Path:
    """``value``, text or a path, as a Path; raises ``error`` for an empty one and for another kind of value."""
    found = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(found, str):
        raise error(f"{name} must be a path, not {shown(value)}")
    if not found:
        raise error(f"{name} has an empty name; is a variable of the shell not set?")
    if "\0" in found:
        raise error(f"{name} must be a path; it holds a NUL character")
    return Path(found)
