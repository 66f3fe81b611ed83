"""pydantic's errors in our own sentences. No other module knows pydantic's types of error, and its wording reaches no user."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from cpm_gen.config.arguments import shown
from cpm_gen.config.fields import alternatives, bounds, item_type, none_word

Error = Mapping[str, Any]  # one of ValidationError.errors()

_KINDS = {  # the value has another type
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_unicode": "Unicode text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dataclass_type": "an object",
    "none_required": "null",
}
_LIMITS = {  # the type is right, the value is not
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must not be empty",  # no text has another least length
    "string_too_long": "must have at most {max_length} characters",
    "missing": "is missing",
    "extra_forbidden": "is an unknown field",
    "unexpected_keyword_argument": "is an unknown field",
}
_TAGS = {
    "str",
    "int",
    "float",
    "bool",
    "dict",
    "none",
    "list",
    "tuple",
    "nullable",
}  # which member of a union, in a path


_MISTAKE = "mistake"  # the type of an error that mistake() made


def mistake(field: str, message: str) -> PydanticCustomError:
    """An error for a validator of a whole body to raise: a field, which may be a path with dots ("" for all), and what is wrong."""
    return PydanticCustomError(_MISTAKE, "{message}", {"field": field, "message": message})


def unknown_field(name: str, known: Iterable[str]) -> PydanticCustomError:
    """The mistake of a field that does not exist, with the one that has nearly that name."""
    if not name.isprintable() or len(name) > 64:
        return mistake("", "has an unknown field")
    near = difflib.get_close_matches(name, sorted(known), n=1)
    return mistake(name, "is an unknown field" + (f"; did you mean {near[0]!r}?" if near else ""))


def first_mistake(errors: Sequence[Error]) -> tuple[str | None, str]:
    """The first value that is wrong, as a path with dots (None: the whole), and what would be right: "must be a number".

    A value that is none of several kinds has an error for each: what is wrong within the kind it has comes first.
    """
    path = _path(errors[0])
    if errors[0]["type"] == _MISTAKE:
        context = errors[0]["ctx"]
        return ".".join(filter(None, (*path, context["field"]))) or None, context["message"]
    same = [e for e in errors if _path(e)[:1] == path[:1]]
    limits = [e for e in same if _kind(e) is None]
    if limits:
        return ".".join(_path(limits[0])) or None, _limit(limits[0])
    kinds = dict.fromkeys(_kind(e) for e in same if _path(e) == path)
    return ".".join(path) or None, f"must be {' or '.join(map(str, kinds))}"


def explain_setting(errors: Sequence[Error], fields: Mapping[str, FieldInfo], given: Mapping[str, Any]) -> str:
    """The first setting of a group that is wrong, what would be right, and what it is: "top_p must be from 0 to 1, not 2"."""
    name = str(errors[0]["loc"][0])
    if name not in fields:
        return unknown_setting(name, fields)
    limits = [e for e in errors if e["loc"][0] == name and _kind(e) is None]
    if not limits:
        if errors[0]["type"] == "finite_number":
            return f"{name} must be a finite number, not {shown(given[name])}"
        return f"{name} must be {expected(fields[name])}, not {shown(given[name])}"
    error = limits[0]
    if error["type"] == "string_too_short":
        return f"a {name} string must not be empty" if len(error["loc"]) > 1 else f"{name} must not be empty"
    if "too_" in error["type"]:
        return f"{name} {_limit(error)}"
    return f"{name} {_range(error, fields[name])}, not {shown(error['input'])}"


def unknown_setting(name: str, known: Iterable[str], *, listed: bool = True) -> str:
    """The sentence for a setting that does not exist: which one has nearly that name, or else (``listed``) all names."""
    names = sorted(known)
    near = difflib.get_close_matches(name[:64], names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}" if listed else ""
    return f"unknown setting {shown(name)}" + hint


def expected(field: FieldInfo) -> str:
    """The kinds of value that a setting takes, in words."""
    return ", ".join(_words(kind) for kind in alternatives(field.annotation))


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    if item := item_type(kind):
        return "whole numbers separated by commas" if item is int else "a list of texts"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _path(error: Error) -> tuple[str, ...]:
    parts = error["loc"]
    return tuple(str(p) for p in parts if isinstance(p, int) or (p not in _TAGS and p.isidentifier()))


def _kind(error: Error) -> str | None:
    """What kind the value is not, in words; None where it has the kind."""
    if error["type"] == "literal_error":
        return str(error["ctx"]["expected"]).replace("'", "").replace(", ", " or ")
    return _KINDS.get(error["type"])


def _limit(error: Error) -> str:
    context = error.get("ctx", {})
    if error["type"] in ("value_error", "assertion_error"):  # a validator's own sentence
        return str(context["error"])
    values = {name: _number(value) for name, value in context.items()}
    return _LIMITS.get(error["type"], "is not valid").format_map(values)


def _range(error: Error, field: FieldInfo) -> str:
    low, high = bounds(field)
    said = _limit(error)
    if low is not None and high is not None and high < 2**31 - 1:  # beyond, one bound says more than two
        said = f"must be from {_number(low)} to {_number(high)}"
    word = none_word(field)
    return f"{said} or {word!r}" if word else said


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
