"""The body of ``/rewrite``, and its answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field, create_model

from cpm_gen.config.options import FORM_SETTINGS, SamplingParams, StyleName, TextOptions
from cpm_gen.runtime.rewrite import SAMPLES
from cpm_gen.server.schemas.generate import Body, Prompt, Usage, read_group, setting, settings

if TYPE_CHECKING:  # what create_model makes, for the type checker

    class _Settings(Body):
        style: StyleName
        n: int
        seed: int | None
        form: str | None
else:
    _OF_TEXT = {name: setting(TextOptions, name) for name in ("style", "seed", *FORM_SETTINGS)}
    _OF_TEXT["n"] = setting(TextOptions, "n", default=SAMPLES, description="candidates")
    _Settings = create_model(
        "_Settings", __base__=Body, **settings(SamplingParams, without=("min_new_tokens",)), **_OF_TEXT
    )


class RewriteBody(_Settings):
    """A text and the passage of it to rewrite. In a form, the text keeps to it from its first line on."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {
                    "text": "天还没有亮。门外积了厚厚的雪。他走了出去。",
                    "start": 6,
                    "end": 15,
                    "style": "novel",
                    "seed": 1,
                }
            ]
        },
    )

    text: Prompt = Field(description="the whole text, or what is near the passage")
    start: int = Field(
        ge=0, le=2**24, description="where the passage begins, in characters (Unicode code points) from 0 on"
    )
    end: int = Field(ge=0, le=2**24, description="where it ends; the same as start: a sentence is inserted there")

    def sampling(self) -> SamplingParams:
        """As the library takes it."""
        return read_group(SamplingParams, vars(self))

    def options(self) -> TextOptions:
        """As the library takes it."""
        return read_group(TextOptions, vars(self))


class CandidateAnswer(BaseModel):
    """A passage in its place. The scores are mean natural log-probabilities a token."""

    text: str
    token_ids: list[int]
    own: float = Field(description="of the passage after the text before it")
    right: float | None = Field(description="of the next tokens of the text after it; null where the text ends")
    total: float = Field(description="what ranks: right and a tenth of own, or own alone where the text ends")


class RewriteAnswer(BaseModel):
    """Candidates, best first."""

    model: str
    seed: int
    start: int = Field(
        description="the characters that a candidate replaces: the selection without white space at its edges"
    )
    end: int
    selection: CandidateAnswer | None = Field(description="the passage as it is now; null for an insertion")
    candidates: list[CandidateAnswer] = Field(description="may be fewer than n, where too few samples differ and fit")
    drawn: int = Field(description="samples written")
    right_tokens: int = Field(description="tokens of the text after the passage that were scored")
    notes: list[str] = Field(description="in a form, rhyme words of other lines that do not agree with the others")
    usage: Usage
