"""Merge defaults, files, environment and flags into :class:`Settings`; remember where each value came from."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from cpm_gen.config.files import read_yaml
from cpm_gen.config.model_sizes import _size
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.config.values import fit
from cpm_gen.errors import ConfigError

ENVIRONMENT_PREFIX = "CPM_GEN_"


NOT_SETTINGS = {"CPM_GEN_REFERENCE", "CPM_GEN_API_KEYS"}  # where tests find reference data; secrets of the service


GROUPS = (ModelOptions, SamplingParams, TextOptions, ServeOptions)


FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for group in GROUPS for f in dataclasses.fields(group)}


TYPES: dict[str, Any] = {name: hint for group in GROUPS for name, hint in typing.get_type_hints(group).items()}


@dataclass(frozen=True)
class Settings:
    """All groups together, and where each value came from."""

    model: ModelOptions = ModelOptions()
    sampling: SamplingParams = SamplingParams()
    text: TextOptions = TextOptions()
    serve: ServeOptions = ServeOptions()
    sources: Mapping[str, str] = field(default_factory=dict)

    def items(self) -> list[tuple[str, Any, str]]:
        """(name, value, source) of every setting, in the order they are declared."""
        return [
            (f.name, getattr(group, f.name), self.sources.get(f.name, "default"))
            for group in (self.model, self.sampling, self.text, self.serve)
            for f in dataclasses.fields(group)
        ]


def choices(name: str) -> tuple[str, ...] | None:
    """The words a setting may take, where it takes only words."""
    hint = TYPES[name]
    return typing.get_args(hint) if typing.get_origin(hint) is Literal else None


def convert(name: str, value: Any, where: str) -> Any:
    """``value`` (a word from a flag or variable, or a YAML value) as the type of setting ``name``; raises ConfigError."""
    return None if name == "max_new_tokens" and value == "unlimited" else fit(name, value, TYPES[name], where)


def _unknown(name: str, where: str) -> ConfigError:
    import difflib

    near = difflib.get_close_matches(name, FIELDS, n=1)
    return ConfigError(f"{where}: unknown setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def resolve(
    *,
    files: Iterable[Path] = (),
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Merge the layers into Settings; raises ConfigError on an unknown key or a value that does not fit."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def put(name: str, value: Any, where: str, source: str) -> None:
        if name not in FIELDS:
            raise _unknown(name, where)
        values[name] = convert(name, value, where)
        sources[name] = source

    for path in files:
        for name, value in read_yaml(path).items():
            if name == "size":  # what a model-size file describes; see read_size
                size = _size(value, path)
                put("heads", size.heads, str(path), str(path))
                put("hidden", size.hidden, str(path), str(path))
            else:
                put(name, value, str(path), str(path))
    for key, value in (environment or {}).items():
        if key.startswith(ENVIRONMENT_PREFIX) and key not in NOT_SETTINGS:
            put(key.removeprefix(ENVIRONMENT_PREFIX).lower(), value, f"environment variable {key}", key)
    for name, value in (flags or {}).items():
        flag = "--" + name.replace("_", "-")
        put(name, value, flag, flag)
    return Settings(
        model=_build(ModelOptions, values),
        sampling=_build(SamplingParams, values),
        text=_build(TextOptions, values),
        serve=_build(ServeOptions, values),
        sources=sources,
    )


T = TypeVar("T")


def _build(group: type[T], values: Mapping[str, Any]) -> T:
    names = {f.name for f in dataclasses.fields(group)}  # type: ignore[arg-type]
    return group(**{k: v for k, v in values.items() if k in names})
