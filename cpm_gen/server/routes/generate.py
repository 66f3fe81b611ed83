"""``POST /generate``: texts, whole or as they are written."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from cpm_gen.outputs import Completion
from cpm_gen.server import errors
from cpm_gen.server.authentication import authorised
from cpm_gen.server.schemas.generate import (
    Choice,
    GenerateAnswer,
    GenerateBody,
    TextBody,
    TimingAnswer,
    Usage,
    WindowBody,
    refusals,
)
from cpm_gen.server.sse import EVENT, KEEP_ALIVE, EventStream, event, unless_gone
from cpm_gen.serving.api_keys import Key
from cpm_gen.serving.errors import ServiceError, unavailable
from cpm_gen.serving.generation_spec import Wanted
from cpm_gen.serving.job import Job
from cpm_gen.serving.service import Service

STREAM_EXAMPLE = (
    'event: token\ndata: {"index":0,"text":"春","token_ids":[52],"finish_reason":null}\n\n'
    'event: window\ndata: {"index":0,"start":512,"text_start":730,"slides":1}\n\n'
    'event: done\ndata: {"id":"gen-5f2b0c9de1a7f604","model":"cpm-embedded","seed":1,"choices":[{"index":0,"finish_reason":"length",'
    '"window_slides":1}],"usage":{"prompt_tokens":11,"completion_tokens":600,"total_tokens":611},"timing":{"queued":0.001,'
    '"first_token":0.02,"total":2.1,"tokens_per_second":288.1}}\n\n'
)
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The texts; with `stream`, server-sent events: `token` (text and ids of one text, its finish_reason on the "
        "last), `window` (a text's window moved: `start` is where it stands in tokens from the prompt's beginning, `text_start` how "
        "many characters of the written text it does not show), then `done`, or `error` with the body of a refusal",
        "content": {"text/event-stream": {"itemSchema": EVENT, "example": STREAM_EXAMPLE}},
    }
}


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["generate"])
    authorise = authorised(service)

    @routes.post(
        "/generate",
        response_model=GenerateAnswer,
        responses=_ANSWERS | refusals(400, 401, 422, 429, 500),
        summary="Write texts",
    )
    async def generate(
        request: Request, body: GenerateBody, key: Key = Depends(authorise)
    ) -> GenerateAnswer | Response:
        job = await unless_gone(request, service.start(wanted(body, body.max_new_tokens, body.timeout), key))
        if body.stream:
            pieces = _events(service, job)
            return EventStream(pieces, lambda: service.finish(job))
        try:
            completions = await unless_gone(request, collect(job))
        finally:
            service.finish(job)
        return _answer(service, job, completions)

    return routes


def wanted(body: TextBody, max_new_tokens: int | None, limit: float | None = None) -> Wanted:
    """What a body asks for."""
    window = body.window or WindowBody()  # type: ignore[call-arg]
    return Wanted(
        prompts=[body.prompt] if isinstance(body.prompt, str) else body.prompt,
        sampling=body.sampling(),
        text=body.options(max_new_tokens),
        decoder=body.decoder,
        hop=window.hop,
        boundary=window.boundary,
        keep=window.keep,
        truncate=body.truncate_prompt,
        limit=limit,
    )


def finish_reason(job: Job, completion: Completion) -> str:
    """As we tell it: what ran out of time was cancelled by us."""
    return "timeout" if job.timed_out and completion.finish_reason == "cancelled" else completion.finish_reason


async def collect(job: Job) -> list[Completion]:
    """All texts, when all are done. Raises ServiceError where there will be none."""
    done: dict[int, Completion] = {}
    while (chunks := await job.chunks()) is not None:
        done |= {chunk.place: chunk.completion for chunk in chunks if chunk.completion}
    check_begun(job, list(done.values()))
    return [done[at] for at in range(job.samples)]


def check_begun(job: Job, completions: list[Completion]) -> None:
    """Raises ServiceError where our time was up before anything was written."""
    if job.timed_out and not job.own_deadline and not any(c.token_ids for c in completions):
        raise unavailable("timeout", "time was up before the first token; the service is busy")


def usage(job: Job, completions: list[Completion]) -> Usage:
    """Tokens of prompts and texts."""
    written = sum(len(c.token_ids) for c in completions)
    return Usage(prompt_tokens=job.prompt_tokens, completion_tokens=written, total_tokens=job.prompt_tokens + written)


def _timing(job: Job, completions: list[Completion]) -> TimingAnswer:
    now = time.monotonic()
    written = sum(len(c.token_ids) for c in completions)
    first = job.first_token
    rate = (written - 1) / (now - first) if first is not None and written > 1 and now > first else None
    return TimingAnswer(
        queued=None if job.began is None else max(0.0, job.began - job.asked),
        first_token=None if first is None else first - job.asked,
        total=now - job.asked,
        tokens_per_second=rate,
    )


def _answer(service: Service, job: Job, completions: list[Completion]) -> GenerateAnswer:
    return GenerateAnswer(
        id=job.id,
        model=service.model_id,
        seed=job.requests[0].seed,
        choices=[
            Choice(
                index=at,
                text=c.text,
                token_ids=list(c.token_ids),
                finish_reason=finish_reason(job, c),  # type: ignore[arg-type]
                window_slides=c.window_slides,
            )
            for at, c in enumerate(completions)
        ],
        usage=usage(job, completions),
        timing=_timing(job, completions),
    )


async def _events(service: Service, job: Job) -> AsyncGenerator[str, None]:
    done: dict[int, Completion] = {}
    starts = dict.fromkeys(range(job.samples), job.requests[0].window.keep)
    try:
        while (chunks := await job.chunks(service.options.keep_alive)) is not None:
            for chunk in chunks:
                at = chunk.place
                reason = None
                if chunk.completion:
                    done[at] = chunk.completion
                    reason = finish_reason(job, chunk.completion)
                content = {"index": at, "text": chunk.text, "token_ids": chunk.token_ids, "finish_reason": reason}
                yield event("token", content)
                if chunk.window_start != starts[at]:
                    starts[at] = chunk.window_start
                    moved = {"start": chunk.window_start, "text_start": chunk.text_start, "slides": chunk.slides}
                    yield event("window", {"index": at, **moved})
            if not chunks:
                yield KEEP_ALIVE
        completions = [done[at] for at in sorted(done)]
        check_begun(job, completions)
        summary = _answer(service, job, completions).model_dump()
        for choice in summary["choices"]:
            del choice["text"], choice["token_ids"]
        yield event("done", summary)
    except ServiceError as error:
        yield event("error", errors.body(error))
