"""KoboldAI's and KoboldCpp's bodies, and their answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cpm_gen.server.schemas.foreign import SingleText
from cpm_gen.server.schemas.generate import Body, Prompt
from cpm_gen.server.schemas.prompts import check_prompt

_BEST = 5  # tokens at each place for ``logprobs: true``, as KoboldCpp has it

GenKey = Annotated[str, Field(max_length=256)]


class KoboldBody(SingleText):
    """KoboldAI's parameters, then ours. What is left out is at our default."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "examples": [{"prompt": "从前", "max_length": 32, "temperature": 0.8, "genkey": "KCPP1234"}]
        },
    )

    prompt: Prompt = Field("", description="a text to continue; left out only with unconditional, a form or an outline")
    memory: Prompt = Field("", description="text before the prompt that always stays in the window")
    genkey: GenKey = Field("", description="the client's name for this text, for /check and /abort")
    logprobs: bool | Annotated[int, Field(ge=0, le=20)] = Field(
        False, description="log-probabilities of this many best tokens at each place; true: 5"
    )
    stream: bool | None = Field(None, description="not used: the address says it")
    bypass_eos: bool = Field(False, description="write on after <eod>")

    @model_validator(mode="after")
    def _with_prompt(self) -> Self:
        check_prompt(self.memory + self.prompt or None, self.unconditional, self.form, self.story)
        return self

    @property
    def best(self) -> int | None:
        """How many of the most probable tokens are shown at each place; None: no log-probabilities."""
        return _BEST if self.logprobs is True else self.logprobs or None

    def ignores_end(self) -> bool:
        """Whether the text is written on past its end token."""
        return super().ignores_end() or self.bypass_eos


class KoboldLogprobs(BaseModel):
    """Tokens with their log-probabilities."""

    content: list[dict[str, Any]]


class KoboldResult(BaseModel):
    """A text, as far as it is written."""

    text: str
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: KoboldLogprobs | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class KoboldAnswer(BaseModel):
    """The text."""

    results: list[KoboldResult]


class GenKeyBody(Body):
    """Which text is meant."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"genkey": "KCPP1234"}]})

    genkey: GenKey = Field("", description="left out: the only one of this API key that is being written")


class AbortAnswer(BaseModel):
    """Whether a text was ended."""

    success: bool


class CountBody(Body):
    """A text."""

    model_config = ConfigDict(extra="forbid", strict=True, json_schema_extra={"examples": [{"prompt": "春江潮水"}]})

    prompt: Prompt
    special: bool = Field(False, description="not used: prompts get no special tokens but those of their style")


class CountAnswer(BaseModel):
    """Its tokens."""

    value: int
    ids: list[int]


class ResultAnswer(BaseModel):
    """A text."""

    result: str


class ValueAnswer(BaseModel):
    """A number."""

    value: int


class KoboldVersion(BaseModel):
    """The version of KoboldCpp whose interface this is, and which of its features are there: programs ask no more than that."""

    result: Literal["KoboldCpp"] = "KoboldCpp"
    version: Literal["1.73"] = "1.73"
    cpm_gen: str
    protected: bool
    txt2img: Literal[False] = False
    vision: Literal[False] = False
    transcribe: Literal[False] = False
    multiplayer: Literal[False] = False
    websearch: Literal[False] = False
    tts: Literal[False] = False


class KoboldErrorDetail(BaseModel):
    """What is wrong: for a person, and for a program."""

    msg: str
    type: str


class KoboldError(BaseModel):
    """A refusal under ``/api``."""

    detail: KoboldErrorDetail
