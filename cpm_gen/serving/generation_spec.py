"""A generation as a client asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cpm_gen.config.options import Decoder, SamplingParams, TextOptions
from cpm_gen.engine.window import Boundary


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A generation as a client asked for it. hop, boundary, keep: of the window; None leaves the model's."""

    prompts: Sequence[str | Sequence[int]]
    sampling: SamplingParams
    text: TextOptions
    decoder: Decoder | None = None
    hop: int | None = None
    boundary: Boundary | None = None
    keep: int | None = None
    truncate: bool = False
    logprobs: int | None = None
    limit: float | None = None  # seconds

    def field(self, at: int) -> str:
        """What the client calls one of the prompts."""
        return "prompt" if len(self.prompts) == 1 else f"prompt.{at}"
