"""Bodies of ``/score``, ``/tokenize`` and ``/detokenize``, and their answers."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from cpm_gen.config.options import StyleName
from cpm_gen.server.schemas.generate import Body, Prompt, TokenIds


class ScoreBody(Body):
    """A text or token ids."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"text": "明月几时有"}, {"token_ids": [36, 608, 925]}]},
    )

    text: Prompt | None = None
    token_ids: TokenIds | None = None
    style: StyleName = "plain"


class ScoreAnswer(BaseModel):
    """Natural log-probability of each token given those before it that the window shows; none for the first."""

    model: str
    token_ids: list[int]
    logprobs: list[float | None]
    perplexity: float | None


class TokenizeBody(Body):
    """A text, read as a style reads prompts, or, without one, as it is."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"text": "春江潮水"}]})
    foreign: ClassVar[bool | None] = False

    text: Prompt | None = None
    prompt: Prompt | None = Field(None, description="vLLM's name for text")
    content: Prompt | None = Field(None, description="llama.cpp's name for text")
    style: StyleName | None = None
    model: str | None = Field(None, max_length=1024, description="not used")
    add_special_tokens: bool = Field(
        False, description="not used: prompts get no special tokens but those of their style"
    )
    return_token_strs: bool | None = Field(False, description="as vLLM: the pieces also as token_strs")


class TokenizeAnswer(BaseModel):
    """Token ids, and how each of them reads; the pieces join to the text as the vocabulary knows it."""

    token_ids: list[int]
    pieces: list[str]
    count: int


class VllmTokenizeAnswer(BaseModel):
    """The answer to a body with ``prompt`` or ``content``, in vLLM's and llama.cpp's names."""

    tokens: list[int]
    count: int
    token_strs: list[str] | None = Field(None, description="the pieces, with return_token_strs")
    max_model_len: int | None = Field(description="most tokens of a prompt, unless truncate_prompt is set")


class DetokenizeBody(Body):
    """Token ids."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"token_ids": [103, 207]}]})

    token_ids: TokenIds | None = None
    tokens: TokenIds | None = Field(None, description="vLLM's name for token_ids")
    style: StyleName = "plain"
    model: str | None = Field(None, max_length=1024, description="not used")


class DetokenizeAnswer(BaseModel):
    """Their text."""

    text: str


class VllmDetokenizeAnswer(BaseModel):
    """The answer to a body with ``tokens``, in vLLM's and llama.cpp's names."""

    prompt: str
    content: str


class TokenizerInfo(BaseModel):
    """What lm-evaluation-harness asks of a tokenizer."""

    tokenizer_class: str = "cpm"
    vocab_size: int
    model_max_length: int | None
    bos_token: None = None
    eos_token: str | None
    eos_token_id: int | None
    pad_token: str | None
    chat_template: None = None
