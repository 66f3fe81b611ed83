"""OpenAI's completions: what its clients send and expect."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.server.schemas.generate import BannedIds, Body, Prompt, Seed, TokenId, WindowBody

_Ids = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
_StopText = Annotated[str, Field(min_length=1, max_length=4096)]


class StreamOptions(Body):
    """What a stream holds besides the text."""

    include_usage: bool = Field(False, description="a last chunk with the usage of the whole request")


class CompletionBody(Body):
    """OpenAI's parameters, then ours (``extra_body`` of its clients). Defaults are OpenAI's."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"model": "cpm-embedded", "prompt": "从前", "max_tokens": 32, "temperature": 0.8, "seed": 1}]
        },
    )

    model: str = Field(max_length=1024)
    prompt: (
        Prompt
        | Annotated[list[Prompt], Field(min_length=1, max_length=256)]
        | _Ids
        | Annotated[list[_Ids], Field(min_length=1, max_length=256)]
    )
    max_tokens: int | None = Field(16, ge=0, le=2**31 - 1, description="0 only with echo")
    temperature: float | None = Field(1.0, ge=0, le=2)
    top_p: float | None = Field(1.0, ge=0, le=1)
    n: int | None = Field(1, ge=1, le=1024)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(
        None, ge=0, le=20, description="log-probabilities of so many best tokens at each place"
    )
    echo: bool | None = False
    stop: _StopText | Annotated[list[_StopText], Field(max_length=256)] | None = None
    presence_penalty: float | None = Field(0.0, ge=-2, le=2)
    frequency_penalty: float | None = Field(0.0, ge=-2, le=2)
    seed: Seed | None = None
    user: Annotated[str, Field(max_length=1024)] | None = Field(None, description="not used")
    best_of: int | None = Field(None, description="not supported unless it equals n")
    suffix: str | None = Field(None, description="not supported: the model writes from left to right")
    logit_bias: dict[str, object] | None = Field(None, description="not supported; there is banned_ids")

    style: Literal["lyric", "novel", "plain"] = "plain"
    top_k: int = Field(0, ge=0, le=2**31 - 1)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    no_repeat_ngram: int = Field(0, ge=0, le=1024)
    min_tokens: int = Field(0, ge=0, le=2**31 - 1)
    banned_ids: BannedIds = Field([])
    stop_at_eod: bool = False
    decoder: Literal["cached", "recompute"] | None = None
    window: WindowBody | None = None
    truncate_prompt: bool = False
    timeout: float | None = Field(None, gt=0, le=86_400)

    def prompts(self) -> list[str | list[int]]:
        """Always a list; each a text or token ids."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if isinstance(given[0], int):
            return [given]
        return list(given)

    def sampling(self) -> SamplingParams:
        """As the library takes it; null is OpenAI's default."""
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_k=self.top_k,
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            no_repeat_ngram=self.no_repeat_ngram,
            min_new_tokens=self.min_tokens,
            banned_ids=tuple(self.banned_ids),
        )

    @property
    def tokens(self) -> int:
        """How many to write; null is OpenAI's default."""
        return 16 if self.max_tokens is None else self.max_tokens

    def options(self) -> TextOptions:
        """As the library takes it."""
        return TextOptions(
            style=self.style,
            max_new_tokens=max(1, self.tokens),
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            stop_at_eod=self.stop_at_eod,
            seed=self.seed,
            n=self.n or 1,
        )


class Logprobs(BaseModel):
    """Natural log-probabilities before temperature and filters. A prompt's tokens (echo) have no top_logprobs."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One text, or a piece of it. What ran out of time has the finish_reason "length"."""

    index: int
    text: str
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None


class CompletionUsage(BaseModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionAnswer(BaseModel):
    """A completion, or with ``stream`` each piece of one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None


class ModelCard(BaseModel):
    """A model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["cpm-gen"] = "cpm-gen"


class ModelList(BaseModel):
    """All models: the one that is loaded."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class OpenAIErrorDetail(BaseModel):
    """What is wrong, as OpenAI says it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """A refusal under ``/v1``."""

    error: OpenAIErrorDetail
