"""Flags of settings, derived from their declarations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from pydantic.fields import FieldInfo

from cpm_gen.config.fields import alternatives, choices, declared, from_file, item_type, none_word
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.config.serve_options import ServeOptions

MODEL_FLAGS = (ModelOptions,)
WRITE_FLAGS = (ModelOptions, SamplingParams, TextOptions)
SERVE_FLAGS = (ServeOptions, ModelOptions)
_OTHER_FLAGS = {"kernels": ("--backend",)}  # further names of a setting's flag


def settings_flags(parser: argparse.ArgumentParser, groups: Sequence[type[Any]]) -> None:
    """Add the flags of all settings of these groups."""
    for group in groups:
        section = parser.add_argument_group((group.__doc__ or "").split(". ")[0].split(".\n")[0].rstrip(".").lower())
        for name, field in declared(group).items():
            flags = ["--" + name.replace("_", "-"), *_OTHER_FLAGS.get(name, ())]
            section.add_argument(*flags, **setting_flag(name, field))


def setting_flag(name: str, field: FieldInfo) -> dict[str, Any]:
    """The arguments of ``add_argument`` for a setting."""
    word = none_word(field)
    text = f"{field.description}; {word!r}: until stopped" if word else str(field.description)
    default = "" if field.default in (None, (), False) else f" (default: {field.default})"
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": (text + default).replace("%", "%%")}
    kind = alternatives(field.annotation)[0]
    if kind is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    if from_file(field):
        return options | {"metavar": "FILE", "help": f"file of {text}".replace("%", "%%")}
    if item_type(kind) is str:
        metavar = "TEXT" if name == "stop" else name.rsplit("_", 1)[-1].upper()
        return options | {"action": "append", "metavar": metavar}
    words = choices(field)
    return options | {"metavar": "|".join(words) if words else name.rsplit("_", 1)[-1].upper()}


def common_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every command that takes settings."""
    parser.add_argument(
        "--config", metavar="FILE", action="append", default=[], help="settings in YAML; may be repeated"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="show every setting and where it came from, and end"
    )
