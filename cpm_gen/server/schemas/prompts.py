"""Which texts need a prompt."""

from __future__ import annotations

import dataclasses

from cpm_gen.config.explain import mistake
from cpm_gen.config.options import TextOptions
from cpm_gen.text.stories.requested import ends_itself


def check_prompt(prompt: object, unconditional: bool, form: str | None, story: str | None) -> None:
    """Raise a mistake for a body with neither a prompt nor ``unconditional``, or with both. A form and an outline need no prompt."""
    if prompt is None and not unconditional and not ends_itself(form, story):
        raise mistake("prompt", "is missing")
    if prompt is not None and unconditional:
        raise mistake("prompt", "is given beside unconditional, which writes without one; leave one of them out")


def begun(text: TextOptions, prompt: object) -> TextOptions:
    """The options of a text, unconditional where a form or an outline has no prompt."""
    if prompt or not ends_itself(text.form, text.story):
        return text
    return dataclasses.replace(text, unconditional=True)
