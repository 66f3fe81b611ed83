"""``GET /forms``, ``POST /forms/check`` and ``POST /forms/rhymes``: forms by name, the faults of a text, words that may end a line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, create_model

from cpm_gen.config.options import FORM_SETTINGS, FormText, TextOptions
from cpm_gen.runtime.rhymes import RHYMES
from cpm_gen.server.authentication import authorised
from cpm_gen.server.schemas.generate import (
    Body,
    Prompt,
    read_group,
    setting,
)
from cpm_gen.server.schemas.refusals import (
    refusals,
)
from cpm_gen.server.sse import unless_disconnected
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.generation_spec import read_form
from cpm_gen.serving.rhymes import RhymeSpec
from cpm_gen.serving.rhymes import rhymes as find_rhymes
from cpm_gen.serving.service import Service
from cpm_gen.text.forms import check as checks
from cpm_gen.text.forms.form import Form, slots
from cpm_gen.text.forms.named import LINES, names, other_names


class NamedForm(BaseModel):
    """A form that has a name. With a variant behind it, such as ``浣溪沙 2``, it is a request's ``form``."""

    name: str
    variants: int = Field(description="0: the name takes its number of lines, such as `五排 12`")
    lines: tuple[int, int] | None = Field(
        description="the fewest and the most lines of such a name; their number is even"
    )
    aliases: list[str]
    alias_variants: dict[str, int] = Field(
        description="of the aliases that mean another variant than the first: its number"
    )


class FormList(BaseModel):
    """All named forms."""

    forms: list[NamedForm]


if TYPE_CHECKING:  # what create_model makes, for the type checker
    _FormSettings = Body
    _RhymeSettings = Body
else:
    _FormSettings = create_model("_FormSettings", __base__=Body, **{n: setting(TextOptions, n) for n in FORM_SETTINGS})
    _RhymeSettings = create_model(
        "_RhymeSettings", __base__=_FormSettings, style=setting(TextOptions, "style", default="lyric")
    )


class CheckBody(_FormSettings):
    """A form and, unless only the form is to be read, a text."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"form": "五绝", "text": "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"},
                {"form": "7a\n7a"},
            ]
        },
    )

    form: FormText = Field(description="a name or the notation")
    text: Annotated[str, Field(max_length=20_000)] | None = None


class PartAnswer(BaseModel):
    """A run of characters. Up to `least`, its slots are needed; the rest may be left out."""

    slots: str = Field(description="○ 平, ● 仄, ⊙ either, or a given character, one for each place")
    least: int
    label: str | None = Field(description="the rhyme of the last character")
    same: bool = Field(description="the last character is the label's first rhyme word again")
    echo: bool = Field(description="the end of the part before again")
    end: str = Field(description="the sign after it, `+` for a word boundary, or nothing")


class LineAnswer(BaseModel):
    """A line of the text. `section`: its section's name, if it begins one that has a name."""

    section: str | None
    repeated: bool = Field(description="the same text as in the section's first place")
    parts: list[PartAnswer]


class FaultAnswer(BaseModel):
    """What is wrong. Line and column count from 1; column 0: the whole line. `kind`, `expected` and `found` say it for programs."""

    line: int
    column: int
    message: str
    kind: checks.FaultKind
    expected: str
    found: str


class CheckAnswer(BaseModel):
    """The form as it was read, its pattern (○ 平, ● 仄, ⊙ either), and the faults of the text; none: it keeps to the form."""

    form: str
    pattern: list[str]
    lines: list[LineAnswer] = Field(description="the pattern in parts")
    faults: list[FaultAnswer]


class RhymesBody(_RhymeSettings):
    """A text in a form, and the line whose last character is asked for."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"form": "五绝", "text": "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。", "line": 2, "n": 5},
            ]
        },
    )

    form: FormText = Field(description="a name or the notation")
    text: Annotated[str, Field(min_length=1, max_length=20_000)] = Field(
        description="the text, as far as it is written"
    )
    line: int = Field(ge=1, le=20_000, description="of the text, from 1 on and with blank lines, as in faults")
    prompt: Prompt | None = Field(None, description="what stands before the text")
    n: int = Field(RHYMES, ge=1, le=1000, description="words")


class RhymeWordAnswer(BaseModel):
    """A word, and its natural log-probability after the text before it."""

    text: str
    logprob: float


class RhymesAnswer(BaseModel):
    """The words that may end the line, best first."""

    words: list[RhymeWordAnswer]
    groups: list[str] = Field(description="rhyme groups of the book that the line may have; none: it does not rhyme")
    notes: list[str] = Field(description="rhyme words of other lines that do not agree with the others")


def router(service: Service) -> APIRouter:
    """The routes. The first two need no model."""
    routes = APIRouter(tags=["forms"])
    authorise = authorised(service)

    @routes.get("/forms", summary="The names of forms", responses=refusals(401), dependencies=[Depends(authorise)])
    async def forms() -> FormList:
        other = other_names()
        return FormList(forms=[_named(name, count, other.get(name, {})) for name, count in names().items()])

    @routes.post(
        "/forms/check",
        summary="Read a form; check a text against it",
        responses=refusals(400, 401, 422),
        dependencies=[Depends(authorise)],
    )
    async def check(body: CheckBody) -> CheckAnswer:
        return await asyncio.to_thread(_check, body)

    @routes.post(
        "/forms/rhymes",
        summary="The words that may end a line of a text in a form, by the model's probability",
        responses=refusals(400, 401, 422, 429, 500),
    )
    async def rhymes(request: Request, body: RhymesBody, key: ApiKey = Depends(authorise)) -> RhymesAnswer:
        options = read_group(TextOptions, {name: value for name, value in vars(body).items() if name != "n"})
        spec = RhymeSpec(text=body.text, line=body.line, options=options, prompt=body.prompt, n=body.n)
        found = await unless_disconnected(request, find_rhymes(service, spec, key))
        return RhymesAnswer(
            words=[RhymeWordAnswer(text=word.text, logprob=word.logprob) for word in found.words],
            groups=list(found.groups),
            notes=list(found.notes),
        )

    return routes


def _named(name: str, variants: int, other: Mapping[str, int | None]) -> NamedForm:
    usual = {alias: variant for alias, variant in other.items() if variant is not None}
    return NamedForm(
        name=name, variants=variants, lines=None if variants else LINES, aliases=list(other), alias_variants=usual
    )


def _check(body: CheckBody) -> CheckAnswer:
    form = read_form(read_group(TextOptions, vars(body)))
    assert form is not None
    faults = [] if body.text is None else checks.check(form, body.text)
    return CheckAnswer(
        form=str(form),
        pattern=form.pattern(),
        lines=list(_lines(form)),
        faults=[FaultAnswer(**vars(f)) for f in faults],
    )


def _lines(form: Form) -> Iterator[LineAnswer]:
    templates = {s.name: s.lines for s in form.sections if s.repeats is None}
    for section in form.sections:
        for at, line in enumerate(section.lines if section.repeats is None else templates[section.repeats]):
            yield LineAnswer(
                section=(section.name or None) if at == 0 else None,
                repeated=section.repeats is not None,
                parts=[
                    PartAnswer(slots=slots(p), least=p.least, label=p.label, same=p.same, echo=p.echo, end=p.end)
                    for p in line.parts
                ],
            )
