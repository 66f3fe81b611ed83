"""The story that settings ask for."""

from __future__ import annotations

import functools

from cpm_gen.config.options import TextOptions
from cpm_gen.errors import ConfigError
from cpm_gen.text.stories.story import Story, StoryError

_read = functools.lru_cache(16)(Story.parse)


def requested_story(options: TextOptions) -> Story | None:
    """The story of a text with these options; None: it has none.

    Raises StoryError, and ConfigError for settings that do not go with an outline, which ends the text.
    """
    if options.story is None:
        return None
    story = _read(options.story)
    if story.outline and options.form is not None:
        raise ConfigError("a form and an outline of chapters both end the text; leave one of them out")
    if story.outline and options.stop:
        raise ConfigError("an outline of chapters ends the text by itself; leave stop out")
    return story


def has_outline(story: str | None) -> bool:
    """Whether a story has chapters; a story that cannot be read counts, so that its own error is reported."""
    try:
        return story is not None and bool(_read(story).outline)
    except StoryError:
        return True


def ends_itself(form: str | None, story: str | None) -> bool:
    """Whether a form or an outline ends the text, whatever its length. Such a text needs no prompt."""
    return form is not None or has_outline(story)
