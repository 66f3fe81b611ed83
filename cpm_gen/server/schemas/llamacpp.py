"""llama.cpp's bodies, and their answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cpm_gen.server.schemas.compatible import DEFAULTS
from cpm_gen.server.schemas.foreign import ModelName, SingleText
from cpm_gen.server.schemas.generate import Prompt
from cpm_gen.server.schemas.openai import Ids
from cpm_gen.server.schemas.prompts import check_prompt


class LlamaBody(SingleText):
    """llama.cpp's parameters, then ours. What is left out is at our default, but for the length."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"prompt": "从前", "n_predict": 32, "temperature": 0.8, "stream": True}]},
    )
    defaults: ClassVar[Mapping[str, int]] = {**DEFAULTS, "max_tokens": -1}

    prompt: Prompt | Ids = Field(
        "", description="a text to continue, or its token ids; left out only with unconditional, a form or an outline"
    )
    model: ModelName = None
    max_tokens: int | None = Field(
        None, ge=1, le=2**53 - 1, description="tokens to write; null: until the text ends, or the service's limit"
    )
    n_probs: int = Field(0, ge=0, le=20, description="log-probabilities of this many best tokens at each place")
    ignore_eos: bool = Field(False, description="never write <eod>")
    stream: bool | None = False

    @model_validator(mode="after")
    def _with_prompt(self) -> Self:
        check_prompt(self.prompt or None, self.unconditional, self.form, self.story)
        return self

    def bans_eod(self) -> bool:
        """Whether ``<eod>`` is never written: what llama.cpp does for ``ignore_eos``."""
        return super().bans_eod() or self.ignore_eos


class LlamaTimings(BaseModel):
    """Tokens, milliseconds and tokens a second."""

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    predicted_per_second: float | None


class LlamaAnswer(BaseModel):
    """The text; with ``stream``, the last event, without it."""

    index: int = 0
    content: str
    tokens: list[int]
    stop: Literal[True] = True
    id_slot: int = -1
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    truncated: bool = Field(description="whether the window did not show the whole text")
    stop_type: Literal["eos", "word", "limit"]
    generation_settings: dict[str, Any]
    timings: LlamaTimings
    completion_probabilities: list[dict[str, Any]] | None = None


class LlamaDefaults(BaseModel):
    """What a request has that says nothing."""

    n_ctx: int
    params: dict[str, Any]


class LlamaProps(BaseModel):
    """The model, and what a request has that says nothing."""

    default_generation_settings: LlamaDefaults
    total_slots: int
    model_alias: str
    model_path: str
    chat_template: str = Field(description="what /v1/chat/completions does with messages")
    modalities: dict[str, bool] = {"vision": False, "audio": False}
    build_info: str
