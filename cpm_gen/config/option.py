"""How a setting is declared: a dataclass field that knows its default and what ``--help`` says of it."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def option(default: Any, help: str) -> Any:
    """Declare a dataclass field with its default and the text that ``--help`` shows."""
    return field(default=default, metadata={"help": help})
