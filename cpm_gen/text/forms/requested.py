"""The form that settings ask for."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import TypeVar

from cpm_gen.config.options import FORM_SETTINGS, TextOptions
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import Form
from cpm_gen.text.forms.kept import with_kept
from cpm_gen.text.forms.line_reader import MOST_PART, is_han
from cpm_gen.text.forms.named import is_name, named
from cpm_gen.text.forms.notation import parse, with_heads

T = TypeVar("T")

_SETTINGS = (*FORM_SETTINGS, "keep_lines", "stop")  # what the form depends on
_NOTATION = re.compile(
    r"[\n:：\[\]「」+○●⊙]|^\s*[0-9平仄中]"
)  # a name has none of these, though perhaps a number: 浣溪沙2


def read_form(text: str) -> Form:
    """A form from its name or its notation. Raises FormError."""
    words = text.split()
    if (words and is_name(words[0]) and len(words) <= 2) or not _NOTATION.search(text):
        return named(text)
    return parse(text)


# How chapters of novels end. A model that was trained on many of them is sure of this phrase after its first characters, so it wins among
# candidates: 14 of 32 七律 of the included model began with it.
_NOT_IN_VERSE = "下回分解"


@functools.lru_cache(16)
def without_chapter_ends(form: Form) -> Form:
    """The form as it is written: the end of a novel's chapter does not come, unless the form asks for it."""
    given = ("".join(slot.given or " " for part in line.parts for slot in part.slots) for line in form.lines())
    if any(_NOT_IN_VERSE in text for text in (*form.required, *form.forbidden, *given)):
        return form
    return dataclasses.replace(form, forbidden=(*form.forbidden, _NOT_IN_VERSE))


def compiled(form: Form, compile_form: Callable[[Form], T]) -> T:
    """What ``compile_form`` makes of a form without the end of a novel's chapter; of the form itself where it cannot be without."""
    written = without_chapter_ends(form)
    try:
        return compile_form(written)
    except InputError:
        if written is form:
            raise
        return compile_form(form)  # the ban is ours, not the writer's, so it gives way


def requested_form(options: TextOptions) -> Form | None:
    """The form of a text with these options; None: free. Raises FormError, and ConfigError for settings that do not go together."""
    return _read(TextOptions(**{name: getattr(options, name) for name in _SETTINGS}))


@functools.lru_cache(16)  # it is asked for when a request is checked, planned and written
def _read(options: TextOptions) -> Form | None:
    changes = [name for name in _SETTINGS[1:-1] if getattr(options, name)]
    if options.form is None:
        for name in changes:
            raise ConfigError(f"{name} belongs to a form; give form, too")
        return None
    if options.stop:
        raise ConfigError("a form ends the text by itself; leave stop out")
    form = read_form(options.form)
    for word in (*options.include, *options.exclude, options.acrostic or "一"):
        if not all(map(is_han, word)):
            raise FormError(f"include, exclude and acrostic take Chinese characters, not {word[:20]}")
    for word in ("include", "exclude"):
        for w in getattr(options, word):
            if len(w) > MOST_PART:  # as in the notation, which a work is stored in
                raise FormError(f"{word}: {w[:10]}… has {len(w)} characters; the most are {MOST_PART}")
    if options.acrostic:
        form = with_heads(form, options.acrostic, what="acrostic")
    if options.rhyme_book:
        form = dataclasses.replace(form, book=options.rhyme_book, groups=())
    form = dataclasses.replace(
        form,
        required=tuple(dict.fromkeys((*form.required, *options.include))),
        forbidden=tuple(dict.fromkeys((*form.forbidden, *options.exclude))),
    )
    return with_kept(form, options.keep_lines) if options.keep_lines else form
