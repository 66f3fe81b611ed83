"""Bodies of ``/works``, and their answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cpm_gen.server.schemas.generate import (
    Body,
    NewTokens,
    TextBody,
    Usage,
)
from cpm_gen.server.schemas.refusals import (
    ErrorDetail,
)
from cpm_gen.server.schemas.stories import SightAnswer, sight_field

_METADATA = 2**15  # characters of keys and values together
_ENTRIES = 256
_EXAMPLE = "work-5f2b0c9de1a7f604"

Length = NewTokens | None
State = Literal["queued", "running", "paused", "finished", "failed"]


class WorkBody(TextBody):
    """A durable text, or several, written whether or not a client is connected."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [
                {"prompt": "话说", "style": "novel", "max_new_tokens": 60, "seed": 1, "metadata": {"title": "三国"}},
                {"prompt": ["从前", "后来"], "max_new_tokens": 100000, "n": 2, "window": {"boundary": "sentence"}},
            ]
        },
    )

    max_new_tokens: Length = Field(None, description="tokens to write; null: without end")
    metadata: dict[str, str] = Field({}, max_length=_ENTRIES, description="the client's own; kept and given back")

    @field_validator("metadata", mode="before")
    @classmethod
    def _few(cls, metadata: Any) -> Any:
        if isinstance(metadata, dict) and len(metadata) > _ENTRIES:  # before each of them is found to be wrong
            raise ValueError(f"must have at most {_ENTRIES} entries")
        return metadata

    @field_validator("metadata")
    @classmethod
    def _small(cls, metadata: dict[str, str]) -> dict[str, str]:
        if sum(len(k) + len(v) for k, v in metadata.items()) > _METADATA:
            raise ValueError(f"must have at most {_METADATA} characters in all")
        return metadata


class ContinueBody(Body):
    """How much further."""

    model_config = ConfigDict(
        extra="forbid", strict=True, json_schema_extra={"examples": [{"max_new_tokens": 500}, {}]}
    )

    max_new_tokens: Length = Field(
        None, description="tokens to write on; null: without end; left out: as many as the first time"
    )


class WindowPlace(BaseModel):
    """Where a window stands, in tokens from the prompt's beginning, and how many characters of the text it does not show."""

    start: int
    text_start: int
    story: SightAnswer | None = sight_field(
        "only with a story, once this process has written on: what the window shows of it"
    )


class WorkChoice(BaseModel):
    """One text, as far as it is written. ``index`` counts through the prompts' samples: ``prompt * n + sample``."""

    index: int
    text: str
    token_ids: list[int] | None = Field(
        description="where asked for, all tokens written, those of a stop string included"
    )
    finish_reason: Literal["length", "stop", "form", "story"] | None = Field(description="null: not finished")
    window_slides: int
    window: WindowPlace


class WorkHead(BaseModel):
    """What a work is and how it stands. Times are seconds since 1970."""

    id: str
    model: str
    state: State
    error: ErrorDetail | None = Field(description="why it failed, cannot be read (paused), or waits (queued)")
    created: float
    updated: float
    prompt: str | list[str]
    metadata: dict[str, str]


class WorkAnswer(WorkHead):
    """A work. ``event_id`` is where its texts end here: as Last-Event-ID it asks ``/events`` for what comes after."""

    parameters: dict[str, Any] = Field(
        description="as stored: the body with the seed, the decoder and the window in use"
    )
    choices: list[WorkChoice]
    usage: Usage
    event_id: str


class WorkSummary(WorkHead):
    """A work in a list, its prompts cut to 200 characters."""

    tokens: int = Field(description="written so far, by all its texts")
    characters: int
    tail: str = Field(description="the end of its first text, at most 200 characters")


class WorkList(BaseModel):
    """Works, newest first."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"works": [], "next": None}]})

    works: list[WorkSummary]
    next: str | None = Field(description="the older ones are to be had with this as `before`; null: there are none")


STREAM_EXAMPLE = (
    'id: 0:0\nevent: state\ndata: {"state":"running","error":null}\n\n'
    'id: 1:2\nevent: token\ndata: {"index":0,"text":"春风","token_ids":[52],"finish_reason":null}\n\n'
    'id: 600:730\nevent: window\ndata: {"index":0,"start":512,"text_start":401,"slides":1}\n\n'
    f'id: 600:730\nevent: done\ndata: {{"id":"{_EXAMPLE}","seed":1,"choices":[{{"index":0,"finish_reason":"length",'
    '"window_slides":1}],"usage":{"prompt_tokens":11,"completion_tokens":600,"total_tokens":611}}\n\n'
)
