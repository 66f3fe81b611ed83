"""What a response says about a story."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from cpm_gen.serving.results import StorySight


class SightAnswer(BaseModel):
    """What a window shows of a story."""

    in_sight: list[str] = Field(description="the parts in sight, lore by its first key")
    left_out: list[str] = Field(description="lore whose keys are mentioned and that the budget has no room for")


def sight_body(story: StorySight | None) -> SightAnswer | None:
    """As the response shows it."""
    return None if story is None else SightAnswer(in_sight=list(story.in_sight), left_out=list(story.left_out))


def sight_field(description: str) -> Any:
    """The field of a body for it: left out of the response where there is no story."""
    return Field(None, exclude_if=lambda story: story is None, description=description)
