"""The words that may end a line of a text in a form: the plan of :mod:`cpm_gen.runtime.rhymes`, between the engine's steps."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass

from cpm_gen.config.options import TextOptions
from cpm_gen.errors import CpmGenError
from cpm_gen.runtime.rhymes import RHYMES, Rhymes, plan_rhymes
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.errors import from_library
from cpm_gen.serving.generation_spec import check_chars, check_form
from cpm_gen.serving.scoring import score_reserved
from cpm_gen.serving.service import Service, before


@dataclass(frozen=True, kw_only=True)
class RhymeSpec:
    """The words that may end line ``line`` of ``text``, as :func:`cpm_gen.runtime.rhymes.plan_rhymes` takes them."""

    text: str
    line: int
    options: TextOptions
    prompt: str | None = None
    n: int = RHYMES


async def rhymes(service: Service, spec: RhymeSpec, key: ApiKey | None = None) -> Rhymes:
    """Score the words in one pass. Raises ServiceError."""
    engine = service.require()
    check_chars(spec.text, service.options, "text")
    check_chars(spec.prompt or "", service.options, "prompt")
    check_form(dataclasses.replace(spec.options, stop=()), None)
    with (key or service.keys.anonymous).running():
        service.engine.reserve(1)
        try:
            async with before(service.deadline()):
                try:
                    plan = await asyncio.to_thread(plan_rhymes, engine, spec.text, spec.line, spec.options, spec.prompt)
                except CpmGenError as error:
                    raise from_library(error, "line") from None
                logprobs = await score_reserved(service, plan.token_ids, "text", plan.place)
        finally:
            service.engine.release(1)
    service.metrics.scored_tokens.inc(len(logprobs))
    return plan.words(spec.n)
