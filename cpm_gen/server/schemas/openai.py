"""OpenAI's completions: what its clients send and expect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model, model_validator

from cpm_gen.config.options import SamplingParams, TextOptions, TokenId
from cpm_gen.server.schemas.foreign import ForeignText, ModelName
from cpm_gen.server.schemas.generate import Body, Prompt, Usage, setting
from cpm_gen.server.schemas.prompts import check_prompt

Ids = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]

if TYPE_CHECKING:  # what create_model makes, for the type checker
    _Settings = ForeignText
else:
    _OPENAI: dict[str, tuple[Any, Any]] = {  # OpenAI's ranges: what it refuses is refused here, too
        "temperature": setting(SamplingParams, "temperature", Field(le=2)),
        "presence_penalty": setting(SamplingParams, "presence_penalty", Field(ge=-2, le=2)),
        "frequency_penalty": setting(SamplingParams, "frequency_penalty", Field(ge=-2, le=2)),
        "top_p": setting(SamplingParams, "top_p", default=1.0),  # which means the same as our 0
        "n": setting(TextOptions, "n"),
    }
    _NULLABLE = {name: (kind | None, field) for name, (kind, field) in _OPENAI.items()}
    _Settings = create_model("_Settings", __base__=ForeignText, **_NULLABLE)


class StreamOptions(Body):
    """What a stream holds besides the text."""

    include_usage: bool = Field(False, description="a last chunk with the usage of the whole request")


class _Completion(_Settings):
    """What both kinds of completion take."""

    model: ModelName = None
    max_tokens: int | None = Field(16, ge=0, le=2**53 - 1, description="0 only with echo")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = Field(None, description="as in /generate, and the opposite of stop_at_eod")

    def ends_at_eod(self) -> bool | None:
        """Whether ``<eod>`` ends the text; None: the library's default."""
        return super().ends_at_eod() if self.ignore_eos is None else not self.ignore_eos


class CompletionBody(_Completion):
    """OpenAI's parameters, then ours (``extra_body`` of its clients). Defaults are OpenAI's."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"model": "cpm-embedded", "prompt": "从前", "max_tokens": 32, "temperature": 0.8, "seed": 1}]
        },
    )

    prompt: (
        Prompt
        | Annotated[list[Prompt], Field(min_length=1, max_length=256)]
        | Ids
        | Annotated[list[Ids], Field(min_length=1, max_length=256)]
        | None
    ) = Field(None, description="left out only with unconditional, a form or an outline")
    logprobs: int | None = Field(
        None, ge=0, le=20, description="log-probabilities of this many best tokens at each place"
    )
    echo: bool | None = False
    best_of: int | None = Field(None, description="not supported unless it equals n")
    suffix: str | None = Field(None, description="not supported: the model writes from left to right")

    @model_validator(mode="after")
    def _with_prompt(self) -> Self:
        check_prompt(self.prompt, self.unconditional, self.form, self.story)
        return self

    def prompts(self) -> list[str | list[int]]:
        """Always a list; each a text or token ids. An unconditional text has an empty one."""
        given = self.prompt
        if given is None or isinstance(given, str):
            return [given or ""]
        if isinstance(given[0], int):
            return [given]
        return list(given)


class TextPart(Body):
    """A part of a message's content."""

    type: Literal["text"]
    text: Prompt


class Message(Body):
    """A message. The role is not shown to the model, which knows none."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Prompt | Annotated[list[TextPart], Field(max_length=256)]
    name: str | None = Field(None, max_length=1024, description="not used")

    def text(self) -> str:
        """The content as one text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(_Completion):
    """OpenAI's parameters of chats, for a model that continues texts: it writes on after the messages, joined by newlines."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"messages": [{"role": "user", "content": "从前"}], "max_tokens": 32, "seed": 1}]
        },
    )

    messages: list[Message] = Field(min_length=1, max_length=4096)
    max_tokens: int | None = Field(256, ge=1, le=2**53 - 1, description="tokens to write")
    logprobs: Annotated[Literal[False], WithJsonSchema({"enum": [False, 0]})] | None = Field(
        None, description="not supported; /v1/completions has them"
    )

    def completion(self) -> CompletionBody:
        """The completion of the joined messages."""
        given = {name: getattr(self, name) for name in _Completion.model_fields}
        text = "\n".join(message.text() for message in self.messages)
        return CompletionBody.model_construct(**given | {"max_tokens": self.tokens}, prompt=text)


class Logprobs(BaseModel):
    """Natural log-probabilities before temperature and filters. A prompt's first token (echo) has none."""

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


class CompletionAnswer(BaseModel):
    """A completion, or with ``stream`` each piece of one."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ChatMessage(BaseModel):
    """What was written."""

    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None


class ChatAnswer(BaseModel):
    """A chat completion; with ``stream`` the choices have a ``delta`` instead of a message."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class ModelLimits(BaseModel):
    """The most that a request may ask for."""

    max_tokens: int
    n: int
    prompts: int
    prompt_characters: int
    stop: int
    stop_characters: int
    logprobs: int = 20
    body_bytes: int


class ModelCard(BaseModel):
    """A model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["cpm-gen"] = "cpm-gen"
    root: str = Field(description="the name of its folder")
    max_model_len: int | None = Field(
        description="most tokens of a prompt, unless truncate_prompt is set; null while the model is being loaded. A text may be longer"
    )
    limits: ModelLimits


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
    request_id: str | None = Field(None, description="the request's X-Request-Id; left out if it had none")


class OpenAIError(BaseModel):
    """A refusal under ``/v1``."""

    error: OpenAIErrorDetail
