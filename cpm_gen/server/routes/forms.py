"""``GET /forms`` and ``POST /forms/check``: forms of verse by name, and the faults of a text."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, create_model

from cpm_gen.config.options import FormText, TextOptions
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.server.authentication import authorised
from cpm_gen.server.schemas.generate import Body, read_group, refusals, setting
from cpm_gen.serving.errors import invalid
from cpm_gen.serving.service import Service
from cpm_gen.text.forms import check as checks
from cpm_gen.text.forms.named import ALIASES, names
from cpm_gen.text.forms.requested import requested_form


class NamedForm(BaseModel):
    """A form that has a name. With a variant behind it, such as ``浣溪沙 2``, it is a request's ``form``."""

    name: str
    variants: int
    aliases: list[str]


class FormList(BaseModel):
    """All named forms."""

    forms: list[NamedForm]


_SETTINGS = ("form", "rhyme_book", "acrostic", "include", "exclude")

if TYPE_CHECKING:  # what create_model makes, for the type checker
    _FormSettings = Body
else:
    _FormSettings = create_model("_FormSettings", __base__=Body, **{n: setting(TextOptions, n) for n in _SETTINGS})


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


class FaultAnswer(BaseModel):
    """What is wrong. Line and column count from 1; column 0: the whole line."""

    line: int
    column: int
    message: str


class CheckAnswer(BaseModel):
    """The form as it was read, its pattern (○ 平, ● 仄, ⊙ either), and the faults of the text; none: it keeps to the form."""

    form: str
    pattern: list[str]
    faults: list[FaultAnswer]


def router(service: Service) -> APIRouter:
    """The routes. They need no model."""
    routes = APIRouter(tags=["forms"])
    authorise = authorised(service)

    @routes.get("/forms", summary="The names of forms", responses=refusals(401), dependencies=[Depends(authorise)])
    async def forms() -> FormList:
        other: dict[str, list[str]] = {}
        for alias, name in ALIASES.items():
            other.setdefault(name, []).append(alias)
        return FormList(
            forms=[NamedForm(name=n, variants=count, aliases=other.get(n, [])) for n, count in names().items()]
        )

    @routes.post(
        "/forms/check",
        summary="Read a form; check a text against it",
        responses=refusals(400, 401, 422),
        dependencies=[Depends(authorise)],
    )
    async def check(body: CheckBody) -> CheckAnswer:
        return await asyncio.to_thread(_check, body)

    return routes


def _check(body: CheckBody) -> CheckAnswer:
    try:
        form = requested_form(read_group(TextOptions, vars(body)))
    except (ConfigError, InputError) as error:
        raise invalid(str(error), "form", "bad_form") from None
    assert form is not None
    faults = [] if body.text is None else checks.check(form, body.text)
    return CheckAnswer(
        form=str(form),
        pattern=form.pattern(),
        faults=[FaultAnswer(line=f.line, column=f.column, message=f.message) for f in faults],
    )
