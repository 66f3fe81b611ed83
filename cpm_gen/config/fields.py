"""What a declared field says of its setting: kinds of value, bounds, choices."""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class NoneWord:
    """Metadata of a field: the word that stands for None in text sources and keyword arguments."""

    word: str


@dataclass(frozen=True)
class Pairs:
    """Metadata of a field of ``KEY:VALUE`` entries: an object is read as its entries."""


@dataclass(frozen=True)
class FileFlag:
    """Metadata of a field: words of one line (of a flag, a variable, a file of settings or the session) name a file with the value.

    Words of several lines are the value, as a list of YAML is. Python and REST give the value itself.
    """


def declared(group: type[Any]) -> dict[str, FieldInfo]:
    """The fields of a group by name, in the order they are declared."""
    fields: dict[str, FieldInfo] = group.__pydantic_fields__
    return fields


def alternatives(annotation: Any) -> tuple[Any, ...]:
    """The types that a value may have besides None, without their bounds."""
    if typing.get_origin(annotation) is Annotated:
        return alternatives(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return tuple(kind for part in typing.get_args(annotation) for kind in alternatives(part))
    return () if annotation in (None, type(None)) else (annotation,)


def item_type(kind: Any) -> Any:
    """The type of a list's entries, without their bounds; None where ``kind`` is no list."""
    return alternatives(typing.get_args(kind)[0])[0] if typing.get_origin(kind) is tuple else None


def choices(field: FieldInfo) -> tuple[str, ...] | None:
    """The words a setting may take, where it takes only words."""
    kinds = alternatives(field.annotation)
    return typing.get_args(kinds[0]) if len(kinds) == 1 and typing.get_origin(kinds[0]) is Literal else None


def bounds(field: FieldInfo) -> tuple[float | None, float | None]:
    """The least and the greatest value of a number; None where there is no such bound, or where the bound itself is excluded."""
    found = {name: getattr(m, name) for m in field.metadata for name in ("ge", "le") if hasattr(m, name)}
    return found.get("ge"), found.get("le")


def takes_pairs(field: FieldInfo) -> bool:
    """Whether the entries of a list are ``KEY:VALUE``, and an object is taken for them."""
    return any(isinstance(m, Pairs) for m in field.metadata)


def from_file(field: FieldInfo) -> bool:
    """Whether words of the field name a file; see :class:`FileFlag`."""
    return any(isinstance(m, FileFlag) for m in field.metadata)


def none_word(field: FieldInfo) -> str | None:
    """The word that stands for None, if the field declares one."""
    return next((m.word for m in field.metadata if isinstance(m, NoneWord)), None)
