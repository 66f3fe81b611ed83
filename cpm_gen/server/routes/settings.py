"""``GET /settings``: what a request may set, as :mod:`cpm_gen.config.options` declares it, and the shipped presets."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from cpm_gen.config.fields import alternatives, bounds, choices, declared, item_type
from cpm_gen.config.files import read_yaml, shipped
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.server.schemas.generate import (
    GenerateBody,
)
from cpm_gen.server.schemas.refusals import (
    refusals,
)

_PRESETS = ("lyric", "novel")
_WINDOW = ("hop", "boundary", "keep")
_KINDS = {int: "integer", float: "number", bool: "boolean", str: "string"}


class Setting(BaseModel):
    """One setting. ``name`` is the request's field; ``window.hop`` is ``hop`` in the object ``window``."""

    name: str
    type: Literal["integer", "number", "boolean", "string", "array"]
    default: bool | int | float | str | list[int | str] | None = Field(description="null: the service's or the model's")
    min: int | float | None = Field(description="null: no bound")
    max: int | float | None
    choices: list[str] | None = Field(description="the words it takes, where it takes only these")
    help: str


class SettingsAnswer(BaseModel):
    """Everything that a generation may set, and values that go together."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "settings": [
                        {
                            "name": "top_p",
                            "type": "number",
                            "default": 0.0,
                            "min": 0,
                            "max": 1,
                            "choices": None,
                            "help": "keep the smallest set of tokens with this probability; 0 or 1: all",
                        }
                    ],
                    "presets": {"novel": {"style": "novel", "window.boundary": "sentence", "temperature": 0.95}},
                }
            ]
        }
    )

    settings: list[Setting]
    presets: dict[str, dict[str, Any]] = Field(description="of the styles lyric and novel; the rest is at its default")


def router() -> APIRouter:
    """The route. It needs no key and no model: the page draws its form from it."""
    routes = APIRouter(tags=["generate"])
    answer = SettingsAnswer(settings=_settings(), presets={name: _preset(name) for name in _PRESETS})

    @routes.get("/settings", summary="What a request may set: types, defaults, bounds, presets", responses=refusals())
    async def settings() -> SettingsAnswer:
        return answer

    return routes


def _settings() -> list[Setting]:
    names = [name for group in (SamplingParams, TextOptions) for name in declared(group)]
    window = {f"window.{name}": declared(ModelOptions)[f"window_{name}"] for name in _WINDOW}
    own = [_setting(name, GenerateBody.model_fields[name]) for name in names]
    return own + [_setting(name, field).model_copy(update={"default": None}) for name, field in window.items()]


def _setting(name: str, field: FieldInfo) -> Setting:
    kind = alternatives(field.annotation)[0]
    low, high = bounds(field)
    default = list(field.default) if isinstance(field.default, tuple) else field.default
    return Setting(
        name=name,
        type="array" if item_type(kind) else _KINDS.get(kind, "string"),  # type: ignore[arg-type]
        default=default,
        min=low,
        max=high,
        choices=list(choices(field) or ()) or None,
        help=str(field.description),
    )


def _preset(name: str) -> dict[str, Any]:
    content = read_yaml(shipped(f"{name}.yaml"))
    return {name.replace("window_", "window."): value for name, value in content.items()}
