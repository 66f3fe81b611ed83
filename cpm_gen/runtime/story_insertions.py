"""What the windows of a text show of a story: token ids, chosen by the text before the move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cpm_gen.config.options import StyleName
from cpm_gen.engine.insertions import Inserted, Note
from cpm_gen.runtime.vocabulary import ModelVocabulary
from cpm_gen.text.prompt_styles import line_end
from cpm_gen.text.stories.chapters import Place
from cpm_gen.text.stories.story import SECTIONS, Story, StoryError


class StoryInsertions:
    """The insertions of a story for one vocabulary and one length of windows (:class:`~cpm_gen.engine.insertions.Insertions`).

    limit: most tokens in a window; a story takes at most half of them. Raises StoryError where it does not fit.
    """

    def __init__(self, story: Story, vocabulary: ModelVocabulary, style: StyleName, limit: int) -> None:
        self._story = story
        self._vocabulary = vocabulary
        self._style = style
        tokenizer = vocabulary.tokenizer
        self._ends = tokenizer.boundary_ids("sentence") or frozenset()
        parts = {name: _encode(getattr(story, name), vocabulary, style) for name in SECTIONS.values()}
        # inside the text, with their depth; of one depth the note is nearer to the text that follows
        self._notes = [(0, tuple(parts.pop("characters"))), (story.depth, tuple(parts.pop("note")))]
        inside = sum(len(ids) for _, ids in self._notes)
        self._before = tuple(i for ids in parts.values() for i in ids)
        self._fixed = tuple(heading for heading, name in SECTIONS.items() if getattr(story, name))
        self._plots = [tuple(_encode(chapter.plot, vocabulary, style)) for chapter in story.outline]
        plot = max(map(len, self._plots), default=0)
        half, fixed = limit // 2, len(self._before) + inside + plot
        if fixed > half:
            named = ", ".join((*self._fixed, *(["the longest plot"] if plot else [])))
            raise StoryError(
                f"{named} of the story have {fixed:,} tokens; a window of {limit:,} has room for {half:,} (half of it); shorten them"
                + ("" if plot else ", or make lore of them")
            )
        most = half - fixed if story.budget is None else min(story.budget, half - fixed)
        self._lore = [tuple(_encode(lore.text, vocabulary, style)) for lore in story.lore]
        for lore, ids in zip(story.lore, self._lore, strict=True):
            if len(ids) > most:
                raise StoryError(
                    f"{lore.name} of the story has {len(ids):,} tokens; there is room for {most:,}; shorten it"
                )
        self._keys = [
            tuple(form for key in lore.keys for form in (key, tokenizer.written(key) or key)) for lore in story.lore
        ]
        self._budget = most
        self._limit = limit
        self.room = fixed + min(most, sum(map(len, self._lore)))

    def choose(self, tokens: Sequence[int], length: int, state: Any) -> Inserted:
        """The fixed parts, the lore whose keys the text before the move mentions, the plot of its chapter, and the notes' places.

        state: a :class:`~cpm_gen.text.stories.chapters.Place` where the story has an outline.
        """
        read = self._text(tokens, length)
        wanted = [
            at
            for at, lore in enumerate(self._story.lore)
            if lore.constant or any(key in read for key in self._keys[at])
        ]
        # the most important ones stay; of one order, those that stand first
        ranked = sorted(wanted, key=lambda at: (-self._story.lore[at].order, at))
        while sum(len(self._lore[at]) for at in ranked) > self._budget:
            ranked.pop()
        shown = sorted(ranked, key=lambda at: (self._story.lore[at].order, at))
        plot, title = self._plot(state) if self._plots else ((), ())
        return Inserted(
            before=(*self._before, *(i for at in shown for i in self._lore[at]), *plot),
            notes=tuple(sorted(self._placed(tokens, length), key=lambda note: note.at)),
            shown=(*self._fixed, *(self._story.lore[at].name for at in shown), *title),
            left_out=tuple(self._story.lore[at].name for at in wanted if at not in ranked),
        )

    def _plot(self, place: Place) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Tokens of the plot of the chapter at a place, and the chapter's name; none where there is no plot."""
        at = min(place.chapter, len(self._plots) - 1)
        plot = self._plots[at]
        return plot, (self._story.outline[at].title,) if plot else ()

    def _text(self, tokens: Sequence[int], length: int) -> str:
        """The text in which keys are looked for."""
        if not self._lore:
            return ""
        return self._vocabulary.decode(tokens[max(0, length - self._story.scan) : length], self._style)

    def _placed(self, tokens: Sequence[int], length: int) -> Iterator[Note]:
        """The characters and the note, each at the beginning of a sentence, ``depth`` sentences before the end."""
        for depth, ids in self._notes:
            if ids:
                yield Note(self._place(tokens, length, depth), ids)

    def _place(self, tokens: Sequence[int], length: int, depth: int) -> int:
        begin = max(0, length - self._limit)  # what stands before it is out of sight
        for at in range(length, begin, -1):
            if tokens[at - 1] in self._ends:
                if depth == 0:
                    return at
                depth -= 1
        return begin


def _encode(text: str, vocabulary: ModelVocabulary, style: StyleName) -> list[int]:
    """Token ids of a part: whole lines."""
    if not text:
        return []
    tokenizer = vocabulary.tokenizer
    ids = vocabulary.encode(text, "lyric" if style == "lyric" else "novel")
    if tokenizer.opens_prompts and ids[0] == tokenizer.start:  # the prompt begins with it
        del ids[0]
    if style != "lyric":
        ids += line_end(style, tokenizer)
    return ids
