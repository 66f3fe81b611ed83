"""What a client asks to have generated, and its check against the service's limits."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from cpm_gen.config.options import Decoder, SamplingParams, TextOptions
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.engine.window import Boundary, Window
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.sampling.constraints import Constraint
from cpm_gen.serving.errors import invalid
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import Form
from cpm_gen.text.forms.requested import requested_form
from cpm_gen.text.stories.chapters import most_tokens
from cpm_gen.text.stories.requested import requested_story


@dataclass(frozen=True, kw_only=True)
class GenerationSpec:
    """One generation: ``text.n`` samples for each prompt.

    Args:
        prompts: texts, or token ids, which are taken as they are.
        sampling: how tokens are chosen.
        text: style, length, stop strings, seed, number of samples.
        decoder: None for the model's.
        hop, boundary, keep: settings of the window; None for the model's.
        truncate: accept a prompt that is longer than the window, and leave its beginning out of the window.
        logprobs: how many of the most probable tokens to report at each position; None for no log-probabilities.
        complete: write all candidates for a sentence to their ends, for a reader of the updates.
        timeout: seconds after which the texts end as they are; None for the service's own limit, which is an error.
        constraint: what the texts have to fulfil, in place of a form of theirs; None for that form, or free texts.
    """

    prompts: Sequence[str | Sequence[int]]
    sampling: SamplingParams
    text: TextOptions
    decoder: Decoder | None = None
    hop: int | None = None
    boundary: Boundary | None = None
    keep: int | None = None
    truncate: bool = False
    logprobs: int | None = None
    timeout: float | None = None
    constraint: Constraint | None = None
    complete: bool = False

    def field(self, at: int) -> str:
        """The name of prompt number ``at`` in errors."""
        return "prompt" if len(self.prompts) == 1 else f"prompt.{at}"

    @property
    def samples(self) -> int:
        """The number of texts."""
        return len(self.prompts) * self.text.n

    @property
    def places(self) -> int:
        """The number of places of the batch: one for each candidate of a text."""
        return self.samples * self.text.candidates


def check_limits(spec: GenerationSpec, options: ServeOptions, max_tokens: int | None) -> None:
    """Check a spec against the limits that are settings; raises ServiceError (invalid).

    ``max_tokens`` bounds the tokens of a text; None: no bound.
    """
    text = spec.text
    _at_most(len(spec.prompts), options.max_prompts, "prompt", "prompts", "too_many_prompts")
    _at_most(text.n, options.max_samples, "n", "samples of a prompt", "too_many_samples")
    check_length(text.max_new_tokens, max_tokens)
    if text.max_new_tokens is not None and spec.sampling.min_new_tokens > text.max_new_tokens:
        raise invalid(f"must be at most max_new_tokens, which is {text.max_new_tokens}", "min_new_tokens")
    _at_most(len(text.stop), options.max_stop, "stop", "stop strings", "too_many_stops")
    longest = max(map(len, text.stop), default=0)
    _at_most(longest, options.max_stop_chars, "stop", "characters of a stop string", "too_long")
    for at, prompt in enumerate(spec.prompts):
        check_chars(prompt, options, spec.field(at))


def read_form(text: TextOptions) -> Form | None:
    """The form of a text; None: free. Raises ServiceError (invalid)."""
    try:
        return requested_form(text)
    except (ConfigError, InputError) as error:
        raise invalid(str(error), error.what if isinstance(error, FormError) else "form", "bad_form") from None


def check_form(text: TextOptions, max_tokens: int | None) -> None:
    """Check the form of a text, and its length as :func:`check_length` does; raises ServiceError (invalid)."""
    form = read_form(text)
    most = 0 if form is None else sum(2 * part.most + 2 for line in form.lines() for part in line.parts)
    if max_tokens is not None and most > max_tokens:
        raise invalid(f"its text may have {most:,} tokens; the most here is {max_tokens:,}", "form", "too_many_tokens")


def check_story(text: TextOptions, max_tokens: int | None) -> None:
    """Check the story of a text, and its outline's length as :func:`check_length` does; raises ServiceError (invalid)."""
    try:
        story = requested_story(text)
    except (ConfigError, InputError) as error:
        raise invalid(str(error), "story", "bad_story") from None
    most = 0 if story is None else most_tokens(story.outline)
    if max_tokens is not None and most > max_tokens:
        raise invalid(
            f"its chapters may have {most:,} tokens; the most here is {max_tokens:,}", "story", "too_many_tokens"
        )


def check_chars(text: str | Sequence[int], options: ServeOptions, field: str) -> None:
    """Check the length of a text, or of token ids; raises ServiceError (invalid)."""
    _at_most(len(text), options.max_prompt_chars, field, "characters", "prompt_too_long")


def check_length(tokens: int | None, max_tokens: int | None) -> None:
    """Check how many tokens are to be generated (None: without end); raises ServiceError (invalid)."""
    if max_tokens is not None and (tokens is None or tokens > max_tokens):
        raise invalid(f"must be at most {max_tokens}", "max_new_tokens", "too_many_tokens")


def check_ids(ids: Sequence[int], vocabulary: int, field: str) -> None:
    """Check that token ids are below ``vocabulary``; raises ServiceError (invalid)."""
    if ids and max(ids) >= vocabulary:
        raise invalid(f"token ids are from 0 to {vocabulary - 1}, not {max(ids)}", field)


def resolve_window(spec: GenerationSpec, model: Window, min_hop: int) -> Window:
    """The model's window with the spec's changes; raises ServiceError (invalid)."""
    keep = model.keep if spec.keep is None else spec.keep
    if not 0 <= keep < model.limit:
        raise invalid(f"must be from 0 to {model.limit - 1}, not {keep}", "window.keep")
    hop = min(model.hop, model.limit - keep) if spec.hop is None else spec.hop
    if not min_hop <= hop <= model.limit - keep:
        raise invalid(f"must be from {min_hop} to {model.limit - keep}, not {hop}", "window.hop")
    return Window(model.limit, hop, spec.boundary or model.boundary, keep)


def seeded(text: TextOptions) -> TextOptions:
    """The same options with a seed; a drawn one has 48 bits, which a JSON number holds exactly."""
    return text if text.seed is not None else dataclasses.replace(text, seed=secrets.randbits(48))


def _at_most(count: int, limit: int, field: str, what: str, code: str) -> None:
    if count > limit:
        raise invalid(f"{count:,} {what}; the most here is {limit:,}", field, code)
