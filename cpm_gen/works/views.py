"""Works as their owners see them: plain values without HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cpm_gen.serving.results import StorySight, TokenUsage
from cpm_gen.works.spec import WorkSpec


@dataclass(frozen=True, kw_only=True)
class WorkHead:
    """What a work is and its state. Times are seconds since 1970. error: code, message, field; why it failed, is paused or waits."""

    id: str
    model: str
    state: str
    error: Mapping[str, Any] | None
    created: float
    updated: float
    prompt: str | list[str]
    metadata: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class TextView:
    """One text as far as it is written. token_ids: None where they were not requested. window_start: in tokens from the prompt's beginning.

    text_start: how many characters of the text the window does not show. story: what the window shows of the story; None without one,
    and before this process has written on.
    """

    index: int
    text: str
    token_ids: list[int] | None
    finish_reason: str | None
    window_slides: int
    window_start: int
    text_start: int
    story: StorySight | None = None


@dataclass(frozen=True, kw_only=True)
class WorkView(WorkHead):
    """A work with its texts. event_id: the position of their end. spec: None where the stored ``parameters`` cannot be read."""

    spec: WorkSpec | None
    parameters: Mapping[str, Any]
    texts: Sequence[TextView]
    usage: TokenUsage
    event_id: str


@dataclass(frozen=True, kw_only=True)
class WorkListEntry(WorkHead):
    """A work in a list, its prompts cut. tail: the end of its first text."""

    tokens: int
    characters: int
    tail: str


@dataclass(frozen=True, kw_only=True)
class WorkPage:
    """Works, newest first. next: the cursor of the following page; None on the last one."""

    works: Sequence[WorkListEntry]
    next: str | None
