"""What the bodies of other servers' endpoints have in common: OpenAI's, KoboldAI's, llama.cpp's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, create_model

from cpm_gen.config.fields import declared
from cpm_gen.config.options import Decoder, SamplingParams, StopString, StopStrings, StyleName, TextOptions
from cpm_gen.server.schemas.generate import Body, WindowBody, read_group, setting, settings
from cpm_gen.server.schemas.prompts import begun

ModelName = Annotated[
    Annotated[str, Field(max_length=1024)] | None, Field(description="left out: the one that is here")
]
NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}  # of settings, as OpenAI and vLLM have them


class _Foreign(Body):
    """Besides the settings; the endpoints' own prompt comes on top."""

    foreign: ClassVar[bool | None] = True
    names: ClassVar[Mapping[str, str]] = NAMES

    max_tokens: int | None = Field(256, ge=1, le=2**53 - 1, description="tokens to write")
    stop: StopString | StopStrings | None = None
    ban_eod: bool | None = Field(False, description="never write <eod>, or the token that ends texts here")
    decoder: Decoder | None = None
    window: WindowBody | None = None
    truncate_prompt: bool = False
    timeout: float | None = Field(None, gt=0, le=86_400)

    def sampling(self, end: int | None) -> SamplingParams:
        """As the library takes it; null is the default. end: the token that ends texts, if there is one."""
        values = vars(self)
        given = read_group(SamplingParams, {name: values[NAMES.get(name, name)] for name in declared(SamplingParams)})
        if end is None or not self.bans_eod():
            return given
        return dataclasses.replace(given, banned_ids=(*given.banned_ids, end))

    @property
    def tokens(self) -> int:
        """How many to write; null is the default."""
        default: int = type(self).model_fields["max_tokens"].default
        return default if self.max_tokens is None else self.max_tokens

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) else self.stop or ()

    def bans_eod(self) -> bool:
        """Whether ``<eod>`` is never written."""
        return bool(self.ban_eod)

    def ends_at_eod(self) -> bool | None:
        """Whether ``<eod>`` ends the text; None: the library's default."""
        ends: bool | None = vars(self)["stop_at_eod"]
        return ends

    def ignores_end(self) -> bool:
        """Whether the text is written on past its end token."""
        return bool(vars(self)["ignore_eos"])

    def options(self) -> TextOptions:
        """As the library takes it; null is the default."""
        own = {"stop": self.stops, "stop_at_eod": self.ends_at_eod(), "ignore_eos": self.ignores_end()}
        given = read_group(TextOptions, vars(self) | own)
        begins = any(vars(self).get(name) for name in ("prompt", "memory", "messages"))
        return dataclasses.replace(begun(given, begins), max_new_tokens=max(1, self.tokens))


if TYPE_CHECKING:  # what create_model makes, for the type checker

    class ForeignText(_Foreign):
        """All of them."""

        style: StyleName
        n: int | None
        stop_at_eod: bool | None
        ignore_eos: bool | None
        unconditional: bool
        form: str | None
        story: str | None
else:
    _FIELDS = settings(SamplingParams, TextOptions, without=("max_new_tokens", "stop", "rank")) | {
        "stop_at_eod": setting(
            TextOptions, "stop_at_eod", default=True, description="end at <eod>, as other servers' models do"
        )
    }
    ForeignText = create_model(
        "ForeignText", __base__=_Foreign, **{NAMES.get(n, n): field for n, field in _FIELDS.items()}
    )


class SingleText(ForeignText):
    """What KoboldAI's and llama.cpp's bodies have in common: one text, after a prompt that is cut to the window."""

    truncate_prompt: bool = Field(True, description="hide the beginning of a prompt that is longer than the window")
    n: int | None = Field(1, ge=1, le=1, description="one text only")
