"""What a line of a batch asks for: its prompt and its settings, over those of the command."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

from cpm_gen.batch.lines import Id, Line, is_openai
from cpm_gen.batch.openai_lines import DEFAULTS, completion_settings
from cpm_gen.config.arguments import shown
from cpm_gen.config.explain import unknown_setting
from cpm_gen.config.fields import declared
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.config.resolve import Settings, overlaid
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.text.stories.requested import ends_itself

_OWN = ("id", "prompt")
_SETTINGS = (*declared(SamplingParams), *declared(TextOptions))


@dataclass(frozen=True)
class LineText:
    """What to write for a line. prompt: text, token ids, or None."""

    prompt: str | list[int] | None
    sampling: SamplingParams
    text: TextOptions


def line_text(line: Line, settings: Settings) -> LineText:
    """What a line asks for. Its seed, if it has none, is derived from that of the command and its id.

    Raises ConfigError and InputError for a setting or a prompt that cannot be used.
    """
    given = completion_settings(line.content) if is_openai(line.content) else dict(line.content)
    given = {name: value for name, value in given.items() if value is not None and name != "id"}
    prompt = given.pop("prompt", None)
    for name in given:
        if name in declared(ModelOptions):
            raise ConfigError(
                f"{name} is the same for all lines; give it to the command, as --{name.replace('_', '-')}"
            )
        if name not in _SETTINGS:
            raise ConfigError(unknown_setting(name, (*_OWN, *_SETTINGS), listed=False))
    if is_openai(line.content):
        given = {n: v for n, v in DEFAULTS.items() if n not in settings.sources} | given
    sampling, text = overlaid(given, settings.sampling, settings.text)
    if "seed" not in given:
        assert line.id is not None
        text = dataclasses.replace(text, seed=line_seed(settings.text.seed or 0, line.id))
    alone = ends_itself(text.form, text.story)
    if text.max_new_tokens is None and not alone:
        raise ConfigError("max_new_tokens must be a number in a batch: a text without an end gives no result")
    if prompt is None and not text.unconditional and not alone:
        raise InputError('needs "prompt", a text or a list of token ids; "unconditional": true writes without one')
    return LineText(_prompt(prompt), sampling, text)


def line_seed(seed: int, id: Id) -> int:
    """The seed of a line without one: 48 bits, which every JSON reader keeps exactly. It depends on nothing but the two."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{id}".encode()).digest()[:6], "big")


def _prompt(given: Any) -> str | list[int] | None:
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, list) and all(type(token) is int for token in given):
        return given
    raise InputError(f"prompt must be one text, or a list of token ids, not {shown(given)}")
