"""Bodies of our own endpoints, and their answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, create_model, model_validator

from cpm_gen.config.explain import mistake
from cpm_gen.config.fields import declared
from cpm_gen.config.options import Boundary, Decoder, ModelOptions, SamplingParams, StyleName, TextOptions, TokenId
from cpm_gen.server.schemas.compatible import (
    ALIASES,
    DEFAULTS,
    IGNORED,
    NEUTRAL,
    adapt,
    bias_entries,
    check_depth,
    check_known,
    check_text,
)
from cpm_gen.server.schemas.prompts import begun, check_prompt
from cpm_gen.server.schemas.stories import SightAnswer, sight_field
from cpm_gen.serving.results import EndReason

T = TypeVar("T")

Prompt = Annotated[str, Field(max_length=2**24)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]  # a megabyte of wrong ones is one error


class Body(BaseModel):
    """Unknown fields are errors, and no value is taken for one of another type. All text is Unicode."""

    model_config = ConfigDict(extra="forbid", strict=True)
    foreign: ClassVar[bool | None] = (
        None  # whether other programs' fields are taken as :func:`compatible.adapt` does; None: none
    )
    defaults: ClassVar[Mapping[str, int]] = DEFAULTS  # values that mean the default to other programs
    names: ClassVar[Mapping[str, str]] = {}  # settings that have another name in this body

    @model_validator(mode="before")
    @classmethod
    def _adapted(cls, given: Any) -> Any:
        """The values under our names."""
        if not isinstance(given, dict):
            return given
        check_text(given)
        check_depth(given)
        if cls.foreign is not None:
            given = adapt(given, cls.model_fields, foreign=cls.foreign, defaults=cls.defaults, names=cls.names)
        check_known(given, {*cls.model_fields, *(ALIASES if cls.foreign else ())})
        if "logit_bias" in cls.model_fields and "logit_bias" in given:
            given = given | {"logit_bias": bias_entries(given["logit_bias"])}
        return given

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """As ``_adapted`` takes it."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        fields = schema.get("properties", {})
        if "logit_bias" in fields:
            entries = {
                k: fields["logit_bias"].pop(k) for k in ("type", "items", "maxItems") if k in fields["logit_bias"]
            }
            object_ = {"type": "object", "maxProperties": 1024, "additionalProperties": {"type": "number"}}
            fields["logit_bias"]["anyOf"] = [object_, entries]
        if cls.foreign is not None:
            for name in (*IGNORED, *NEUTRAL, *(ALIASES if cls.foreign else ())):
                fields.setdefault(
                    name, {"description": "another program's field; ignored, refused, or the same as one of ours"}
                )
            for name, field in cls.model_fields.items():
                if not field.is_required() and field.default is not None:
                    _add_kind(fields[name], {"type": "null"})
            for name, default in cls.defaults.items() if cls.foreign else ():
                if name in fields:
                    _add_kind(fields[name], {"const": default, "description": "the default, as other programs say it"})
        return schema


def _add_kind(field: dict[str, Any], kind: dict[str, Any]) -> None:
    """Document one more kind of value of a field, in place."""
    if "anyOf" not in field:
        kept = {k: field.pop(k) for k in list(field) if k not in ("description", "default", "title")}
        field["anyOf"] = [kept]
    if kind not in field["anyOf"]:
        field["anyOf"].append(kind)


# Where a request may have less than the library takes; all else of a setting is as cpm_gen.config.options declares it.
_LIMITS: dict[str, Any] = {
    "banned_ids": Field(max_length=4096),  # they are sent to the device at every step
    "seed": Field(le=2**53 - 1),  # the greatest whole number that every JSON reader keeps exactly
}


def setting(group: type[Any], name: str, *limits: Any, **changes: Any) -> tuple[Any, Any]:
    """A body's field like a setting, as ``create_model`` takes it. limits: further ones. changes: arguments of ``Field``."""
    field = declared(group)[name]
    more = (_LIMITS[name], *limits) if name in _LIMITS else limits
    kept: dict[str, Any] = {"default": field.default, "description": field.description}
    metadata = (*field.metadata, *more)
    return Annotated[(field.annotation, *metadata)] if metadata else field.annotation, Field(**kept | changes)


def settings(*groups: type[Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields of a body that takes these groups' settings."""
    return {name: setting(group, name) for group in groups for name in declared(group) if name not in without}


def read_group(group: type[T], values: Mapping[str, Any]) -> T:
    """A group of settings from the values of a body, those that are null left at their defaults."""
    return group(**{name: values[name] for name in declared(group) if values.get(name) is not None})


if TYPE_CHECKING:  # what create_model makes, for the type checker

    class _Window(Body):
        hop: int | None
        boundary: Boundary | None
        keep: int | None

    class _Text(Body):
        style: StyleName
        n: int
        seed: int | None
        candidates: int
        unconditional: bool
        form: str | None
        story: str | None

    NewTokens = int
else:
    _WINDOW = {name: setting(ModelOptions, f"window_{name}", default=None) for name in ("hop", "boundary", "keep")}
    _Window = create_model("_Window", __base__=Body, **{name: (kind | None, f) for name, (kind, f) in _WINDOW.items()})
    _Text = create_model(
        "_Text", __base__=Body, **settings(SamplingParams, TextOptions, without=("max_new_tokens", "rank"))
    )
    NewTokens = Annotated[(int, *declared(TextOptions)["max_new_tokens"].metadata)]


class WindowBody(_Window):
    """How the window moves when it is full; what is left out is the model's."""


class TextBody(_Text):
    """What to write."""

    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=256)] | None = Field(
        None, description="a text to continue, or several; left out only with unconditional, a form or an outline"
    )
    decoder: Decoder | None = Field(None, description="left out: the service's")
    window: WindowBody | None = None
    truncate_prompt: bool = Field(
        False, description="take a prompt longer than the window and hide its beginning; otherwise it is refused"
    )

    @model_validator(mode="after")
    def _with_prompt(self) -> Self:
        check_prompt(self.prompt, self.unconditional, self.form, self.story)
        return self

    @property
    def prompts(self) -> list[str]:
        """Always a list; an unconditional text has an empty one."""
        return self.prompt if isinstance(self.prompt, list) else [self.prompt or ""]

    def sampling(self) -> SamplingParams:
        """As the library takes it."""
        return read_group(SamplingParams, vars(self))

    def options(self, max_new_tokens: int | None) -> TextOptions:
        """As the library takes it."""
        text = dataclasses.replace(read_group(TextOptions, vars(self)), max_new_tokens=max_new_tokens)
        return begun(text, self.prompt)


class GenerateBody(TextBody):
    """What to write."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "prompt": "明月几时有，把酒问青天。",
                    "style": "lyric",
                    "max_new_tokens": 64,
                    "seed": 1,
                    "stream": True,
                },
                {"prompt": ["从前", "话说"], "n": 2, "temperature": 0.8, "top_p": 0.9, "window": {"hop": 256}},
            ]
        },
    )

    foreign: ClassVar[bool | None] = False

    max_new_tokens: NewTokens = Field(declared(TextOptions)["max_new_tokens"].default, description="tokens to write")
    stream: bool = Field(False, description="server-sent events instead of one answer")
    rank: bool = Field(
        declared(TextOptions)["rank"].default,
        description=f"{declared(TextOptions)['rank'].description}; of a stream the choices of its `done` event",
    )
    show_candidates: bool = Field(
        False, description="with stream and candidates: the event of each sentence has all its candidates"
    )
    timeout: float | None = Field(
        None, gt=0, le=86_400, description="seconds, waiting included; then what is there is the answer"
    )

    @model_validator(mode="after")
    def _with_candidates(self) -> Self:
        if self.show_candidates and not (self.stream and self.candidates > 1):
            raise mistake("show_candidates", "needs stream and candidates of at least 2")
        return self


class Usage(BaseModel):
    """Tokens read and written; each prompt is counted once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TimingAnswer(BaseModel):
    """Seconds from the request's arrival."""

    queued: float | None = Field(description="until the first text got a place in the batch")
    first_token: float | None
    total: float
    tokens_per_second: float | None = Field(description="of all texts together, after the first token")


class Choice(BaseModel):
    """One text. ``index`` counts through the prompts' samples: ``prompt * n + sample``."""

    index: int
    text: str
    token_ids: list[int] = Field(description="all tokens written, those of a stop string included")
    finish_reason: EndReason
    window_slides: int = Field(description="how often the window moved")
    story: SightAnswer | None = sight_field("only with a story: what the last window shows of it")


class ScoredChoice(Choice):
    """One text of a request with rank or candidates."""

    logprob: float = Field(description="mean log-probability a character")


class GenerateAnswer(BaseModel):
    """What was written. As the ``done`` event of a stream, the choices come without text and token_ids."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "gen-5f2b0c9de1a7f604",
                    "model": "cpm-embedded",
                    "seed": 1,
                    "choices": [
                        {
                            "index": 0,
                            "text": "春风",
                            "token_ids": [52, 1290],
                            "finish_reason": "length",
                            "window_slides": 0,
                        }
                    ],
                    "usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13},
                    "timing": {"queued": 0.001, "first_token": 0.02, "total": 0.03, "tokens_per_second": 100.0},
                }
            ]
        }
    )

    id: str
    model: str
    seed: int
    choices: list[Choice | ScoredChoice]
    usage: Usage
    timing: TimingAnswer
