"""Rewrite a passage of a text with a service's model: the plan of :mod:`cpm_gen.runtime.rewrite`, through the queue."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from dataclasses import dataclass

from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.errors import CpmGenError
from cpm_gen.runtime.rewrite import ROUNDS, Reader, RewritePlan, Rewrites, plan_rewrite
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.errors import from_library
from cpm_gen.serving.generation_spec import GenerationSpec, check_chars, check_form
from cpm_gen.serving.results import TextUpdate, TokenUsage
from cpm_gen.serving.scoring import score_reserved
from cpm_gen.serving.service import Service, before
from cpm_gen.text.rewriting import Cut, trimmed


@dataclass(frozen=True, kw_only=True)
class RewriteSpec:
    """Candidates for ``text[start:end]``, as :func:`cpm_gen.runtime.rewrite.plan_rewrite` takes them."""

    text: str
    start: int
    end: int
    sampling: SamplingParams
    options: TextOptions


@dataclass(frozen=True)
class RewriteResult:
    """The candidates, and the tokens that were read and written for them."""

    rewrites: Rewrites
    usage: TokenUsage


async def rewrite(service: Service, spec: RewriteSpec, key: ApiKey | None = None) -> RewriteResult:
    """Write, score and rank the candidates. Cancelling the call cancels the generation. Raises ServiceError."""
    engine = service.require()
    check_chars(spec.text, service.options, "text")
    check_form(dataclasses.replace(spec.options, stop=()), None)
    try:
        trimmed(spec.text, spec.start, spec.end)
    except CpmGenError as error:
        raise from_library(error, "start") from None
    async with before(service.deadline()):
        try:
            plan = await asyncio.to_thread(
                plan_rewrite, engine, spec.text, spec.start, spec.end, spec.sampling, spec.options
            )
        except CpmGenError as error:
            raise from_library(error, "text") from None
        cuts: dict[str, Cut] = {}
        drawn = written = 0
        for at in range(ROUNDS):
            cutters, tokens = await _write(service, plan, at, key)
            drawn, written = drawn + len(cutters), written + tokens
            if plan.collect(engine, cutters, cuts):
                break
        texts = plan.scored(cuts.values())
        scores = []
        with (key or service.keys.anonymous).running():
            service.engine.reserve(1)
            try:
                for ids in texts:
                    scores.append(await score_reserved(service, ids, "text"))
            finally:
                service.engine.release(1)
    service.metrics.scored_tokens.inc(sum(map(len, scores)))
    found = plan.rank(engine, cuts.values(), scores, drawn)
    return RewriteResult(found, TokenUsage(len(plan.prompt) + len(plan.right), written))


async def _write(service: Service, plan: RewritePlan, at: int, key: ApiKey | None) -> tuple[list[Reader], int]:
    """The samples of a round, and their number of tokens; ends once each is as long as its cut needs."""
    engine, options = service.require(), plan.round(at)
    cutters = [plan.cutter(engine) for _ in range(options.n)]
    spec = GenerationSpec(prompts=[plan.prompt], sampling=plan.sampling, text=options, constraint=plan.constraint)
    ended: set[int] = set()
    tokens = 0
    async with contextlib.aclosing(service.stream(spec, key)) as updates:
        async for update in updates:
            if isinstance(update, TextUpdate):
                tokens += len(update.token_ids)
                done = [cutters[update.index].push(i) for i in update.token_ids]
                if any(done) or update.finish_reason is not None:
                    ended.add(update.index)
                if len(ended) == options.n:
                    break
    return cutters, tokens
