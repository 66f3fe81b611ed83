"""The stories of the texts of a loaded model, encoded for its vocabulary."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from cpm_gen.config.options import StyleName, TextOptions
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError
from cpm_gen.runtime.story_insertions import StoryInsertions
from cpm_gen.runtime.vocabulary import ModelVocabulary
from cpm_gen.text.stories.chapters import Chapters, Characters
from cpm_gen.text.stories.requested import requested_story
from cpm_gen.text.stories.story import Chapter, Story

_KEPT = 16  # stories


class Stories:
    """What stories mean to the texts. Safe to use from any thread.

    rows: of the network's vocabulary.
    """

    def __init__(self, vocabulary: ModelVocabulary, rows: int) -> None:
        self._vocabulary = vocabulary
        self._rows = rows
        self._insertions = functools.lru_cache(_KEPT)(self._encode)
        self._chapters = functools.lru_cache(_KEPT)(self._outline)

    def insertions(self, text: TextOptions, window: Window) -> StoryInsertions | None:
        """What the windows show of the text's story; None without one.

        Raises StoryError, and ConfigError beside kept tokens and for settings that do not go with the story.
        """
        story = requested_story(text)
        if story is None:
            return None
        if window.keep:
            raise ConfigError(
                f"a story takes the place of window_keep, which is {window.keep}; set it to 0, or leave story out"
            )
        return self._insertions(story, text.style, window.limit)

    def chapters(self, text: TextOptions, prompt: Sequence[int]) -> Chapters | None:
        """The constraint of the story's outline after the token ids of a prompt; None without one.

        Raises StoryError, and ConfigError for settings that do not go with the outline.
        """
        story = requested_story(text)
        if story is None or not story.outline:
            return None
        chapters = self._chapters(story.outline, text.style)
        if [*prompt] == [self._vocabulary.tokenizer.start]:
            return chapters
        return chapters.after(self._vocabulary.decode(prompt, text.style, chapters=True))

    def _encode(self, story: Story, style: StyleName, limit: int) -> StoryInsertions:
        return StoryInsertions(story, self._vocabulary, style, limit)

    def _outline(self, outline: tuple[Chapter, ...], style: StyleName) -> Chapters:
        return Chapters(outline, self._vocabulary.tokenizer, style, self._characters)

    @functools.cached_property
    def _characters(self) -> Characters:
        return Characters(self._vocabulary.tokenizer, self._rows)
