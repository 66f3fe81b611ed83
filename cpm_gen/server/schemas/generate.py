"""Bodies of our own endpoints, and their answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cpm_gen.config.options import SamplingParams, TextOptions

_SAMPLING = SamplingParams()
_TEXT = TextOptions()

Seed = Annotated[int, Field(ge=0, le=2**53 - 1)]  # what every JSON reader keeps exactly
TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]  # a megabyte of wrong ones is one error
Stop = Annotated[list[Annotated[str, Field(min_length=1, max_length=4096)]], Field(max_length=256)]
BannedIds = Annotated[list[TokenId], Field(max_length=4096, fail_fast=True)]
Prompt = Annotated[str, Field(max_length=2**24)]


class Body(BaseModel):
    """Unknown fields are errors, and no value is taken for one of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _one_unknown(cls, given: Any) -> Any:
        """Of many unknown fields one is enough to refuse the body: each would be an error."""
        if not isinstance(given, dict) or len(given) <= len(cls.model_fields):
            return given
        unknown = next(name for name in given if name not in cls.model_fields)
        return {name: value for name, value in given.items() if name in cls.model_fields or name == unknown}


class WindowBody(Body):
    """How the window moves when it is full; what is left out is the model's."""

    hop: int | None = Field(None, ge=1, le=2**31 - 1, description="tokens that it moves at least")
    boundary: Literal["token", "sentence", "eod"] | None = Field(None, description="what it may begin after")
    keep: int | None = Field(None, ge=0, le=2**31 - 1, description="tokens from the beginning that stay in sight")


class SamplingBody(Body):
    """How tokens are chosen."""

    temperature: float = Field(_SAMPLING.temperature, ge=0, le=100, description="0: the most probable token")
    top_k: int = Field(_SAMPLING.top_k, ge=0, le=2**31 - 1, description="0: all")
    top_p: float = Field(_SAMPLING.top_p, ge=0, le=1, description="0 or 1: all")
    min_p: float = Field(_SAMPLING.min_p, ge=0, le=1)
    repetition_penalty: float = Field(_SAMPLING.repetition_penalty, ge=0.01, le=100)
    presence_penalty: float = Field(_SAMPLING.presence_penalty, ge=-100, le=100)
    frequency_penalty: float = Field(_SAMPLING.frequency_penalty, ge=-100, le=100)
    no_repeat_ngram: int = Field(_SAMPLING.no_repeat_ngram, ge=0, le=1024)
    min_new_tokens: int = Field(_SAMPLING.min_new_tokens, ge=0, le=2**31 - 1)
    banned_ids: BannedIds = Field([], description="token ids that are never written")

    def sampling(self) -> SamplingParams:
        """As the library takes it."""
        given = {name: getattr(self, name) for name in SamplingBody.model_fields}
        return SamplingParams(**(given | {"banned_ids": tuple(self.banned_ids)}))


class TextBody(SamplingBody):
    """What to write, whatever becomes of it."""

    prompt: Prompt | Annotated[list[Prompt], Field(min_length=1, max_length=256)] = Field(
        description="a text to go on from, or several"
    )
    style: Literal["lyric", "novel", "plain"] = Field(_TEXT.style, description="how the prompt is read")
    decoder: Literal["cached", "recompute"] | None = Field(None, description="left out: the service's")
    window: WindowBody | None = None
    n: int = Field(1, ge=1, le=1024, description="samples of each prompt")
    seed: Seed | None = Field(None, description="same seed, same text; left out: drawn, and told in the answer")
    stop: Stop = Field([], description="a text ends before the first of these strings")
    stop_at_eod: bool = Field(_TEXT.stop_at_eod, description="a text ends at <eod>")
    truncate_prompt: bool = Field(
        False,
        description="a prompt longer than the window is taken, its beginning out of sight; otherwise it is refused",
    )

    def options(self, max_new_tokens: int | None) -> TextOptions:
        """As the library takes it."""
        return TextOptions(
            style=self.style,
            max_new_tokens=max_new_tokens,
            stop=tuple(self.stop),
            stop_at_eod=self.stop_at_eod,
            seed=self.seed,
            n=self.n,
        )


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

    max_new_tokens: int = Field(256, ge=1, le=2**31 - 1, description="tokens to write")
    stream: bool = Field(False, description="server-sent events instead of one answer")
    timeout: float | None = Field(
        None, gt=0, le=86_400, description="seconds, waiting included; then what is there is the answer"
    )


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


FinishReason = Literal["length", "stop", "timeout", "cancelled"]


class Choice(BaseModel):
    """One text. ``index`` counts through the prompts' samples: ``prompt * n + sample``."""

    index: int
    text: str
    token_ids: list[int] = Field(description="all tokens written, those of a stop string included")
    finish_reason: FinishReason
    window_slides: int = Field(description="how often the window moved")


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
    choices: list[Choice]
    usage: Usage
    timing: TimingAnswer


class ScoreBody(Body):
    """A text or token ids."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"text": "明月几时有"}, {"token_ids": [36, 608, 925]}]},
    )

    text: Prompt | None = None
    token_ids: TokenIds | None = None
    style: Literal["lyric", "novel", "plain"] = "plain"


class ScoreAnswer(BaseModel):
    """Natural log-probability of each token given those before it that the window shows; none for the first."""

    model: str
    token_ids: list[int]
    logprobs: list[float | None]
    perplexity: float | None


class TokenizeBody(Body):
    """A text, read as a style reads prompts, or, without one, as it is."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"text": "春江潮水"}]})

    text: Prompt
    style: Literal["lyric", "novel", "plain"] | None = None


class TokenizeAnswer(BaseModel):
    """Token ids, and how each of them reads; the pieces join to the text as the vocabulary knows it."""

    token_ids: list[int]
    pieces: list[str]
    count: int


class DetokenizeBody(Body):
    """Token ids."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"token_ids": [103, 207]}]})

    token_ids: TokenIds
    style: Literal["lyric", "novel", "plain"] = "plain"


class DetokenizeAnswer(BaseModel):
    """Their text."""

    text: str


class ErrorDetail(BaseModel):
    """What is wrong, for a program (code), for a person (message), and where (field)."""

    code: str
    message: str
    field: str | None


class ErrorAnswer(BaseModel):
    """Every refusal looks like this."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"error": {"code": "queue_full", "message": "too many texts wait already", "field": None}}]
        }
    )

    error: ErrorDetail


_GATE = (408, 413, 421, 503)  # what may become of any request


def refusals(*statuses: int, model: type[BaseModel] = ErrorAnswer) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route and of the gate before it, for its documentation."""
    what = {
        400: "The body is not JSON, or (under /v1) not acceptable",
        401: "No API key, or one that is not known",
        404: "There is no such thing",
        408: "The body did not arrive in time",
        409: "Not as things stand",
        413: "The body is too large",
        421: "The service does not answer to this Host",
        422: "A value is not acceptable; `field` says which",
        429: "Too much at once; `Retry-After` says when to try again",
        500: "Something broke in the service",
        503: "Loading, shutting down, overloaded, or the engine failed; `Retry-After` says when to try again",
    }
    return {status: {"model": model, "description": what[status]} for status in sorted({*statuses, *_GATE})}
