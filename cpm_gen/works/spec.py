"""The stored form of a work's parameters.

A :class:`WorkSpec` holds everything that determines a work's texts beside its prompt. It is created once, when the work is
created, and stored as JSON with a version. It is not an HTTP body: names, bounds and defaults of the HTTP interface may change
without changing what stored works mean.

To add a field, give it a default that leaves the texts of stored works unchanged. To rename or redefine one, raise ``VERSION`` and
add the step from the version before to ``_UPGRADES``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from cpm_gen.config.explain import first_mistake
from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.engine.window import Window
from cpm_gen.serving.generation_spec import GenerationSpec
from cpm_gen.text.forms.requested import requested_form
from cpm_gen.works.errors import UnreadableWork

VERSION = 2
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda stored: (
        stored
    ),  # the body of POST /works with decoder, seed and window filled in; the same fields, no version
}


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class WindowSpec:
    """How the window moves, in tokens; the limit is the model's. See :class:`~cpm_gen.engine.window.Window`."""

    hop: int
    boundary: Literal["token", "sentence", "eod"] = "token"
    keep: int = 0


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class WorkSpec:
    """Everything that determines a work's texts beside its prompt.

    The types are checked, the ranges are not: what an earlier version accepted stays readable. ``max_new_tokens``: tokens of each
    text; None for no limit. ``n``: samples of each prompt. ``end_token``: the token that ``stop_at_eod`` means; None for the
    tokenizer's. ``unconditional``: there is no prompt. ``truncate_prompt``: a prompt longer than the window was accepted. ``form``: in its
    notation; None: free text. ``story``: in its notation; None: none. ``candidates``: how often each sentence is written, of which the
    best is kept.
    """

    seed: int
    window: WindowSpec
    style: Literal["lyric", "novel", "plain"] = "plain"
    decoder: Literal["cached", "recompute"] = "cached"
    n: int = 1
    max_new_tokens: int | None = None
    stop: tuple[str, ...] = ()
    stop_at_eod: bool = False
    end_token: str | None = None
    unconditional: bool = False
    truncate_prompt: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int = 0
    min_new_tokens: int = 0
    banned_ids: tuple[int, ...] = ()
    logit_bias: tuple[str, ...] = ()
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    form: str | None = None
    story: str | None = None
    candidates: int = 1

    @classmethod
    def of(
        cls,
        generation: GenerationSpec,
        seed: int,
        window: Window,
        decoder: Literal["cached", "recompute"],
        end_token: str | None = None,
    ) -> WorkSpec:
        """The spec of a requested generation; seed, window and decoder are given where the request leaves them to the service.

        end_token: the token that ends the texts, where one does.
        """
        text = generation.text
        form = requested_form(text)
        return cls(
            seed=seed,
            window=WindowSpec(hop=window.hop, boundary=window.boundary, keep=window.keep),
            style=text.style,
            decoder=decoder,
            n=text.n,
            max_new_tokens=text.max_new_tokens,
            stop=text.stop,
            stop_at_eod=end_token is not None or text.stop_at_eod,
            end_token=end_token,
            unconditional=text.unconditional,
            truncate_prompt=generation.truncate,
            form=None if form is None else str(form),
            story=text.story,
            candidates=text.candidates,
            **{f.name: getattr(generation.sampling, f.name) for f in dataclasses.fields(SamplingParams)},
        )

    @classmethod
    def read(cls, stored: object) -> WorkSpec:
        """The spec that :meth:`write` or an earlier version stored; raises UnreadableWork with the reason.

        Missing fields get their defaults. Unknown fields, newer versions and wrong types are errors.
        """
        if not isinstance(stored, Mapping):
            raise UnreadableWork("the parameters must be an object", "parameters")
        fields = dict(stored)
        version = fields.pop("version", 1)
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise UnreadableWork(f"the version must be a whole number from 1, not {version!r}", "parameters.version")
        if version > VERSION:
            raise UnreadableWork(
                f"written by a newer cpm-gen: version {version}, this one reads up to {VERSION}", "parameters.version"
            )
        for step in range(version, VERSION):
            fields = _UPGRADES[step](fields)
        try:
            return _ADAPTER.validate_json(json.dumps(fields))
        except ValidationError as error:
            raise _reason(error) from None
        except (TypeError, ValueError, RecursionError):
            raise UnreadableWork("the parameters are not valid JSON", "parameters") from None

    def write(self) -> dict[str, Any]:
        """As JSON has it, with the version."""
        fields: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return {"version": VERSION} | fields

    def sampling(self) -> SamplingParams:
        """How tokens are chosen; raises ConfigError for values that this version cannot use."""
        return SamplingParams(**{f.name: getattr(self, f.name) for f in dataclasses.fields(SamplingParams)})

    def text(self, max_new_tokens: int | None) -> TextOptions:
        """Style, length and end of each text, ``max_new_tokens`` long; raises ConfigError as :meth:`sampling` does."""
        return TextOptions(
            style=self.style,
            max_new_tokens=max_new_tokens,
            stop=self.stop,
            stop_at_eod=self.stop_at_eod,
            ignore_eos=not self.stop_at_eod,
            unconditional=self.unconditional,
            seed=self.seed,
            n=self.n,
            form=self.form,
            story=self.story,
            candidates=self.candidates,
        )

    def window_of(self, limit: int) -> Window:
        """The window over a context of at most ``limit`` tokens; raises ConfigError where it does not fit."""
        return Window(limit, self.window.hop, self.window.boundary, self.window.keep)

    def generation(self, prompt: str | list[str]) -> GenerationSpec:
        """The whole work as a generation request; raises ConfigError as :meth:`sampling` does."""
        return GenerationSpec(
            prompts=[prompt] if isinstance(prompt, str) else prompt,
            sampling=self.sampling(),
            text=self.text(self.max_new_tokens),
            decoder=self.decoder,
            hop=self.window.hop,
            boundary=self.window.boundary,
            keep=self.window.keep,
            truncate=self.truncate_prompt,
        )


_ADAPTER = TypeAdapter(WorkSpec)


def _reason(error: ValidationError) -> UnreadableWork:
    """The first problem that pydantic found, with the name of its field."""
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"]))
    if not name:
        return UnreadableWork("the parameters are not valid JSON", "parameters")
    message = {
        "unexpected_keyword_argument": "unknown field; a newer or older cpm-gen wrote it",
        "missing": "missing, and there is no default for it",
    }.get(first["type"]) or first_mistake([first])[1]
    return UnreadableWork(f"{name}: {message}", f"parameters.{name}")
