"""Whether a generation fits the model: its prompts and its story the window, its form the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.serving.errors import from_library, invalid
from cpm_gen.serving.generation_spec import GenerationSpec


def fit(
    llm: TextEngine, spec: GenerationSpec, prompts: Sequence[Sequence[int]], window: Window, *, form: bool = False
) -> None:
    """Check that the window has room for the spec's story and for the prompts beside it. Safe to call from any thread.

    form: check that the vocabulary can fill the spec's form, too, as building the requests does. Raises ServiceError.
    """
    try:
        if spec.text.story is not None:
            for ids in prompts:
                llm.stories.chapters(spec.text, ids)
            limit = llm.window_beside(spec.text, window).limit
            for at, ids in enumerate(prompts):
                check_prompt_length(spec, at, len(ids), limit)
        if form and spec.text.form is not None:
            llm.requests(prompts[:1], spec.sampling, spec.text, window=window)
    except (ConfigError, InputError) as error:
        raise from_library(error, "form" if spec.text.story is None else "story") from None


def check_prompt_length(spec: GenerationSpec, at: int, tokens: int, limit: int) -> None:
    """Check that the network sees all of prompt ``at``, or that the spec leaves its beginning out; raises ServiceError."""
    if tokens > limit and not spec.truncate:
        raise invalid(
            f"the prompt has {tokens:,} tokens and the network sees {limit:,}; shorten it, or say "
            "truncate_prompt to have its beginning left out of sight",
            spec.field(at),
            "prompt_too_long",
        )
