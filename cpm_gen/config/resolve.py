"""Merge defaults, files, environment and flags into :class:`Settings`; remember where each value came from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic.fields import FieldInfo

from cpm_gen.config.explain import unknown_setting
from cpm_gen.config.fields import declared, from_file
from cpm_gen.config.files import read_yaml
from cpm_gen.config.model_sizes import parse_size
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions, check_lengths
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.config.text_files import file_text
from cpm_gen.config.words import from_words
from cpm_gen.errors import ConfigError

ENVIRONMENT_PREFIX = "CPM_GEN_"
NOT_SETTINGS = {"CPM_GEN_REFERENCE", "CPM_GEN_API_KEYS"}  # where tests find reference data; secrets of the service

# Kubernetes sets these in every container for each Service of its namespace; a Service named cpm-gen, or cpm-gen-api, has our prefix:
# CPM_GEN_SERVICE_HOST, CPM_GEN_SERVICE_PORT_HTTP, CPM_GEN_PORT=tcp://10.0.0.1:8000, CPM_GEN_PORT_8000_TCP_ADDR
_OF_KUBERNETES = re.compile(
    r"CPM_GEN_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_PORT_OF_KUBERNETES = re.compile(r"(tcp|udp|sctp)://")

GROUPS: tuple[type[Any], ...] = (ModelOptions, SamplingParams, TextOptions, ServeOptions)
FIELDS: dict[str, FieldInfo] = {name: f for group in GROUPS for name, f in declared(group).items()}
_GROUP_OF = {name: group for group in GROUPS for name in declared(group)}


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
            (name, getattr(group, name), self.sources.get(name, "default"))
            for group in (self.model, self.sampling, self.text, self.serve)
            for name in declared(type(group))
        ]


def convert(name: str, value: Any, where: str = "") -> Any:
    """``value`` (a word, or a value of YAML or Python) as setting ``name`` has it.

    Raises ConfigError that names ``where`` the value came from, if that is given, the setting, and what would be right.
    """
    group = _GROUP_OF[name]
    try:
        return getattr(group(**{name: from_words(value, FIELDS[name])}), name)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def read_words(name: str, value: Any, where: str) -> Any:
    """:func:`convert` for words that a person writes: of a field marked with FileFlag, one line names a file. Raises InputError for it."""
    if from_file(FIELDS[name]) and isinstance(value, str) and "\n" not in value:
        what = where if where.startswith("--") else f"{where}: {name}"
        value = (
            file_text(value, what) or "\n"
        )  # so that what is missing in an empty file is said as in one with a blank line
    return convert(name, value, where)


def resolve(
    *,
    files: Iterable[Path] = (),
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Merge the layers into Settings; raises ConfigError on an unknown key or a value that does not fit, InputError for a file."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}

    def put(name: str, value: Any, where: str, source: str) -> None:
        if name not in FIELDS:
            raise ConfigError(f"{where}: {unknown_setting(name, FIELDS, listed=False)}")
        values[name] = read_words(name, value, where)
        sources[name] = source

    for path in files:
        for name, value in read_yaml(path).items():
            if name == "size":  # what a model-size file describes; see read_size
                size = parse_size(value, path)
                put("heads", size.heads, str(path), str(path))
                put("hidden", size.hidden, str(path), str(path))
            else:
                put(name, value, str(path), str(path))
    for key, value in (environment or {}).items():
        if key.startswith(ENVIRONMENT_PREFIX) and key not in NOT_SETTINGS and not _of_kubernetes(key, value):
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


def _of_kubernetes(key: str, value: str) -> bool:
    """Whether Kubernetes set this variable for a Service whose name begins with cpm-gen."""
    if key.removeprefix(ENVIRONMENT_PREFIX).lower() in FIELDS and key != "CPM_GEN_PORT":
        return False
    if _OF_KUBERNETES.fullmatch(key):
        return True
    return key.endswith("_PORT") and _PORT_OF_KUBERNETES.match(value) is not None


def model_options(given: Mapping[str, Any]) -> ModelOptions:
    """Keyword arguments of :func:`cpm_gen.llm.load`; raises ConfigError for an unknown name or a value that does not fit."""
    known = declared(ModelOptions)
    for name in given:
        if name not in known:
            raise ConfigError(unknown_setting(name, known))
    return _build(ModelOptions, _converted(given))


def generation_options(given: Mapping[str, Any]) -> tuple[SamplingParams, TextOptions]:
    """Keyword arguments of one generation; raises ConfigError."""
    known = declared(SamplingParams) | declared(TextOptions)
    for name in given:
        if name in declared(ModelOptions):
            raise ConfigError(f"{name} is fixed when a model is loaded; give it to load()")
        if name not in known:
            raise ConfigError(unknown_setting(name, known))
    return overlaid(given, SamplingParams(), TextOptions(), "argument")


def overlaid(
    given: Mapping[str, Any], sampling: SamplingParams, text: TextOptions, where: str = ""
) -> tuple[SamplingParams, TextOptions]:
    """The settings of a generation, those that are ``given`` in place of their own; raises ConfigError. where: see :func:`convert`."""
    values = {name: convert(name, value, where) for name, value in given.items()}
    sampling, text = _replaced(sampling, values), _replaced(text, values)
    check_lengths(sampling, text)
    return sampling, text


def _converted(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: convert(name, value, "argument") for name, value in given.items()}


T = TypeVar("T")


def _build(group: type[T], values: Mapping[str, Any]) -> T:
    return group(**{name: value for name, value in values.items() if name in declared(group)})


def _replaced(group: T, values: Mapping[str, Any]) -> T:
    return _build(type(group), {name: getattr(group, name) for name in declared(type(group))} | dict(values))
