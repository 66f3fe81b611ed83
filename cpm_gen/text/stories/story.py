"""A story: what a novel keeps in sight however long it grows. A frozen value with a notation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from cpm_gen.errors import InputError

SECTIONS = {"前提": "premise", "记忆": "memory", "人物": "characters", "笔记": "note"}  # headings of the fixed parts
MOST_CHARS = 100_000
MOST_LORE = 1_000
MOST_CHAPTERS = 1_000
MOST_NUMBER = 100_000  # of scan, budget, depth, order and the characters of a chapter
SEPARATORS = ",，、"  # between keys


class StoryError(InputError):
    """A story that cannot be read, or that a window has no room for. Names line and column where there are some."""


@dataclass(frozen=True)
class Lore:
    """A text that is in sight while the last tokens hold one of its keys.

    order: lore of the lowest order is left out first where there is no room; that of the highest stands nearest to the text.
    constant: in sight without a key being mentioned, too.
    """

    keys: tuple[str, ...]
    text: str
    order: int = 0
    constant: bool = False

    def __post_init__(self) -> None:
        """Check keys, text and order; raises StoryError."""
        if not self.keys:
            raise StoryError("lore needs a key; give the words that bring it in sight")
        for key in self.keys:
            if not key or key != key.strip() or set(key) & {*SEPARATORS, *"]:：\n\r"} or len(key) > 100:
                raise StoryError(f"a key of lore is 1 to 100 characters without commas, colons and ], not {key[:20]!r}")
        _check_text("设定", self.text)
        if not self.text:
            raise StoryError(f"the lore of {self.keys[0]} is empty; write its text")
        _check_number("序", self.order)

    @property
    def name(self) -> str:
        """How reports name it."""
        return f"设定: {self.keys[0]}"


@dataclass(frozen=True)
class Chapter:
    """A chapter of an outline: its title is written as its heading; its plot is in sight while it is written.

    least, most: it may end from ``least`` characters on, and ends at the first sentence's end from ``most`` on. White space and the
    heading do not count.
    """

    title: str
    least: int
    most: int
    plot: str = ""

    def __post_init__(self) -> None:
        """Check title, lengths and plot; raises StoryError."""
        title = self.title
        if not title or title != title.strip() or len(title) > 100 or set(title) & {*"[]\n\r"} or "<eod>" in title:
            raise StoryError(f"the title of a chapter is 1 to 100 characters without brackets, not {title[:20]!r}")
        _check_number("字", self.least)
        _check_number("字", self.most)
        if not 1 <= self.least <= self.most:
            raise StoryError(
                f"{title} has from {self.least} to {self.most} characters; the first number is at least 1 and at most the second"
            )
        _check_text(title, self.plot)


@dataclass(frozen=True)
class Story:
    """What the windows of a text show beside the text itself.

    premise, memory: prose before the text, in this order; lore follows them. characters, note: prose inside the text; when the window
    moves, the characters stand where its last sentence ends, the note ``depth`` sentences before. scan: keys of lore are looked for in
    this many of the last tokens. budget: most tokens of lore; None: as many as half a window has room for.
    outline: the chapters, in order; the text ends after the last one.
    """

    premise: str = ""
    memory: str = ""
    characters: str = ""
    note: str = ""
    depth: int = 3
    lore: tuple[Lore, ...] = ()
    scan: int = 200
    budget: int | None = None
    outline: tuple[Chapter, ...] = ()

    def __post_init__(self) -> None:
        """Check the parts; raises StoryError."""
        for heading, name in SECTIONS.items():
            _check_text(heading, getattr(self, name))
        for word, number in (("深", self.depth), ("扫描", self.scan), ("预算", self.budget or 0)):
            _check_number(word, number)
        if not self.note and self.depth != Story.depth:
            raise StoryError("a depth belongs to a note; write the note")
        if not any((self.premise, self.memory, self.characters, self.note, self.lore, self.outline)):
            raise StoryError("the story is empty; begin with a heading such as [前提] and prose under it")
        if len(self.lore) > MOST_LORE:
            raise StoryError(f"{len(self.lore):,} pieces of lore; the most is {MOST_LORE:,}")
        if len(self.outline) > MOST_CHAPTERS:
            raise StoryError(f"{len(self.outline):,} chapters; the most is {MOST_CHAPTERS:,}")
        titles = Counter(chapter.title for chapter in self.outline)
        for title, count in titles.items():
            if count > 1:  # a text that goes on is placed by its last heading
                raise StoryError(f"{count} chapters have the title {title}; give each a title of its own")

    @staticmethod
    def parse(text: str) -> Story:
        """A story from its notation; see :mod:`cpm_gen.text.stories.notation`. Raises StoryError with line and column."""
        from cpm_gen.text.stories.notation import parse

        return parse(text)

    def __str__(self) -> str:
        """In its notation; :meth:`parse` gives an equal story."""
        parts = []
        settings = [f"扫描: {self.scan}\n"] if self.scan != Story.scan else []
        if self.budget is not None:
            settings.append(f"预算: {self.budget}\n")
        if settings:
            parts.append("".join(settings))
        for heading, name in SECTIONS.items():
            if text := getattr(self, name):
                depth = f" 深{self.depth}" if name == "note" and self.depth != Story.depth else ""
                parts.append(f"[{heading}{depth}]\n{text}\n")
        for lore in self.lore:
            order = f" 序{lore.order}" if lore.order else ""
            constant = " 常在" if lore.constant else ""
            parts.append(f"[设定{order}{constant}: {', '.join(lore.keys)}]\n{lore.text}\n")
        for chapter in self.outline:
            plot = f"{chapter.plot}\n" if chapter.plot else ""
            parts.append(f"[{chapter.title}] {chapter.least}-{chapter.most}字\n{plot}")
        return "\n".join(parts)


def _check_text(heading: str, text: str) -> None:
    """Check that a part is prose that its notation can hold."""
    lines = text.split("\n")
    if len(text) > MOST_CHARS or text != text.strip() or "\r" in text or any(line.startswith("[") for line in lines):
        raise StoryError(
            f"{heading} must be at most {MOST_CHARS:,} characters of prose without space around it, and no line may begin with ["
        )
    if any(line != line.rstrip(" \t") for line in lines):
        raise StoryError(f"{heading} has a line that ends in a space; leave it out")


def _check_number(word: str, number: int) -> None:
    if not 0 <= number <= MOST_NUMBER:
        raise StoryError(f"{word} must be from 0 to {MOST_NUMBER:,}, not {number}")
