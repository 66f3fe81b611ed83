"""Tasks of ``cpm-gen choose``: a template with a marked scored span, and labels.

::

    template: "这是关于{label}的文章：[[{sentence}]]"
    labels: {"100": 故事, "101": 文化, "102": 娱乐}
    answer: label

``{label}`` is the word of the label that is tried, any other ``{field}`` a field of the record. What stands in ``[[…]]`` is scored, given
what stands before it. ``labels`` maps the values of the record's ``answer`` field to words; a list stands for words that are their own
values. Files: ``configs/choose/``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from cpm_gen.config.explain import first_mistake
from cpm_gen.config.files import read_yaml, shipped
from cpm_gen.errors import ConfigError, InputError

Score = Literal["mean", "sum"]

_FIELD = re.compile(r"\{(\w+)\}")
_STRICT = ConfigDict(extra="forbid", strict=True)


@checked_dataclass(frozen=True, kw_only=True, config=_STRICT)
class _TaskFile:
    template: str
    labels: dict[str, str] | list[str]
    answer: str = "label"
    skip: list[str] = dataclasses.field(default_factory=list)
    candidates: int = 0
    score: Score = "mean"


@dataclass(frozen=True)
class Task:
    """A checked task.

    name: for messages. prompt, span: the template before the scored span, and the span. labels: words by value, in the order they are
    tried. answer: the record's field with the right label's value. skip: values whose records are left out. candidates: number of labels
    that a record is tried with: the right one last, and the others at random; 0: all. score: mean or sum of the negative log-probabilities.
    """

    name: str
    prompt: str
    span: str
    labels: Mapping[str, str]
    answer: str = "label"
    skip: frozenset[str] = frozenset()
    candidates: int = 0
    score: Score = "mean"

    def __post_init__(self) -> None:
        """Check what does not depend on a record; raises ConfigError."""
        if not 0 <= self.candidates <= len(self.labels) or self.candidates == 1:
            raise ConfigError(
                f"{self.name}: candidates must be 0 (all) or from 2 to {len(self.labels)}, the labels, not {self.candidates}"
            )

    def texts(self, record: Mapping[str, Any]) -> tuple[dict[str, str], str]:
        """The prompt for each label's value, and the span; raises InputError for a field that is missing or no text."""
        fields = {name: _text(record, name) for name in _FIELD.findall(self.prompt + self.span) if name != "label"}
        prompts = {value: _fill(self.prompt, fields | {"label": word}) for value, word in self.labels.items()}
        return prompts, _fill(self.span, fields)

    def right(self, record: Mapping[str, Any]) -> str | None:
        """The value of the right label, None if the record has none; raises InputError for one that is no label."""
        value = record.get(self.answer)
        if value is None:
            return None
        value = str(value)
        if value not in self.labels and value not in self.skip:
            raise InputError(f"{self.answer} {value!r} is none of the labels of {self.name}")
        return value


def read_task(name: str) -> Task:
    """A task of ``configs/choose`` by name, or of a YAML file; raises ConfigError."""
    if not name:
        raise ConfigError("the task's name is empty")
    plain = "/" not in name and not name.endswith(".yaml") and not Path(name).exists()
    path = shipped(f"choose/{name}.yaml") if plain else Path(name)
    return _task(path.stem, read_yaml(path), str(path))


def _task(name: str, content: dict[str, Any], where: str) -> Task:
    labels = content.get("labels")
    if isinstance(labels, dict):  # YAML reads 100: as a number
        content = content | {"labels": {str(value): word for value, word in labels.items()}}
    try:
        file = _TaskFile(**content)
    except ValidationError as error:
        path, what = first_mistake(error.errors())
        raise ConfigError(f"{where}: {f'{path} ' if path else ''}{what}") from None
    words = file.labels if isinstance(file.labels, dict) else {word: word for word in file.labels}
    if len(words) < 2:
        raise ConfigError(f"{where}: labels must hold at least two different ones")
    prompt, span = _parts(file.template, where)
    return Task(name, prompt, span, words, file.answer, frozenset(file.skip), file.candidates, file.score)


def _parts(template: str, where: str) -> tuple[str, str]:
    found = re.fullmatch(r"(.+)\[\[(.+)\]\]", template, re.DOTALL)
    if found is None or any(mark in part for part in found.groups() for mark in ("[[", "]]")):
        raise ConfigError(f"{where}: template must be text, then [[the scored span]] at its end, once")
    prompt, span = found.groups()
    if "{label}" not in prompt or "{label}" in span:
        raise ConfigError(f"{where}: template must hold {{label}} before the scored span, and not in it")
    return prompt, span


def _fill(template: str, fields: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda found: fields[found[1]], template)


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str):
        raise InputError(f'needs "{name}", a string')
    return value
