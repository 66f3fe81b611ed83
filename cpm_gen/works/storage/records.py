"""What is kept of a work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["queued", "running", "paused", "finished", "failed"]  # the database knows running as queued


@dataclass(kw_only=True)
class Text:
    """One of a work's texts. place: prompt by prompt, sample by sample. most: tokens to write; None: without end.

    tokens, chars: how many are written. window_start, text_start: as in :class:`~cpm_gen.outputs.Chunk`.
    """

    place: int
    prompt_ids: tuple[int, ...]
    sample: int
    most: int | None
    tokens: int = 0
    chars: int = 0
    finish_reason: str | None = None
    slides: int = 0
    window_start: int = 0
    text_start: int = 0


@dataclass(kw_only=True)
class Work:
    """A long generation. model: the name of what writes it; network: what of it must be the same to go on.

    parameters: all that determines its texts beside the prompt. created, updated: seconds since 1970.
    error: why it failed, as an answer's body has it. metadata: the client's own.
    """

    id: str
    owner: str
    model: str
    network: str
    state: State
    created: float
    updated: float
    prompt: str | list[str]
    parameters: Mapping[str, Any]
    metadata: Mapping[str, str]
    error: Mapping[str, Any] | None = None
    texts: list[Text] = field(default_factory=list)


@dataclass(frozen=True)
class Summary:
    """A work in a list: of its prompt the beginning, no parameters. tail: the end of its first text."""

    work: Work
    tokens: int
    chars: int
    tail: str


@dataclass(frozen=True)
class Piece:
    """Part of a text: its tokens and characters, and how many of each stand before it."""

    token: int
    char: int
    token_ids: tuple[int, ...]
    text: str

    @property
    def end(self) -> int:
        """Tokens of the text up to its end."""
        return self.token + len(self.token_ids)

    def after(self, token: int, char: int) -> Piece:
        """What follows a position in it."""
        return Piece(token, char, self.token_ids[token - self.token :], self.text[max(0, char - self.char) :])
