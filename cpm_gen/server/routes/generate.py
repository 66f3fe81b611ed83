"""``POST /generate``: texts, whole or as they are generated."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.outputs import Sentence
from cpm_gen.server import errors
from cpm_gen.server.authentication import authorised
from cpm_gen.server.schemas.foreign import ForeignText
from cpm_gen.server.schemas.generate import (
    Choice,
    GenerateAnswer,
    GenerateBody,
    ScoredChoice,
    TextBody,
    TimingAnswer,
    Usage,
    WindowBody,
)
from cpm_gen.server.schemas.refusals import (
    refusals,
)
from cpm_gen.server.schemas.stories import sight_body
from cpm_gen.server.sse import EVENT, KEEP_ALIVE, EventStream, event, unless_disconnected
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.generation_spec import GenerationSpec
from cpm_gen.serving.job import Job
from cpm_gen.serving.results import (
    GeneratedText,
    GenerationResult,
    Idle,
    StorySight,
    TextUpdate,
    TokenUsage,
    WindowUpdate,
    updates,
)
from cpm_gen.serving.service import Service

STREAM_EXAMPLE = (
    'event: token\ndata: {"index":0,"text":"春","token_ids":[52],"finish_reason":null}\n\n'
    'event: window\ndata: {"index":0,"start":512,"text_start":730,"slides":1}\n\n'
    'event: done\ndata: {"id":"gen-5f2b0c9de1a7f604","model":"cpm-embedded","seed":1,"choices":[{"index":0,"finish_reason":"length",'
    '"window_slides":1}],"usage":{"prompt_tokens":11,"completion_tokens":600,"total_tokens":611},"timing":{"queued":0.001,'
    '"first_token":0.02,"total":2.1,"tokens_per_second":288.1}}\n\n'
)
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The texts; with `stream`, server-sent events: `token` (text and ids of one text, its finish_reason on the "
        "last), `window` (a text's window moved: `start` is where it stands in tokens from the prompt's beginning, `text_start` how "
        "many characters of the written text it does not show; `story`: what it shows of a story, sent with the first token, too), "
        "`sentence` after the tokens of a sentence with candidates (`kept`: the number of the one that the text has), "
        "then `done`, or `error` with the body of a refusal",
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
        responses=_RESPONSES | refusals(400, 401, 422, 429, 500),
        summary="Write texts",
    )
    async def generate(
        request: Request, body: GenerateBody, key: ApiKey = Depends(authorise)
    ) -> GenerateAnswer | Response:
        text = body.options(body.max_new_tokens)
        spec = generation_spec(body, body.prompts, body.sampling(), text, body.timeout)
        spec = dataclasses.replace(spec, complete=body.show_candidates)
        if body.stream:
            job = await unless_disconnected(request, service.start(spec, key))
            return EventStream(_events(service, job, body.show_candidates), lambda: service.cancel(job))
        result = await unless_disconnected(request, service.generate(spec, key))
        return _response(service, result)

    return routes


def generation_spec(
    body: TextBody | ForeignText,
    prompts: Sequence[str | list[int]],
    sampling: SamplingParams,
    text: TextOptions,
    timeout: float | None = None,
) -> GenerationSpec:
    """What a body asks for, as the service takes it."""
    window = body.window or WindowBody()  # type: ignore[call-arg]
    return GenerationSpec(
        prompts=prompts,
        sampling=sampling,
        text=text,
        decoder=body.decoder,
        hop=window.hop,
        boundary=window.boundary,
        keep=window.keep,
        truncate=body.truncate_prompt,
        timeout=timeout,
    )


def story_event(story: StorySight | None) -> dict[str, Any]:
    """What an event says about a story; nothing without one."""
    shown = sight_body(story)
    return {} if shown is None else {"story": shown.model_dump()}


def usage_body(usage: TokenUsage) -> Usage:
    """Tokens read and generated, as the response shows them."""
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
    )


def _response(service: Service, result: GenerationResult) -> GenerateAnswer:
    timing = result.timing
    return GenerateAnswer(
        id=result.id,
        model=service.model_id,
        seed=result.seed,
        choices=[_choice(text) for text in result.texts],
        usage=usage_body(result.usage),
        timing=TimingAnswer(
            queued=timing.queued,
            first_token=timing.first_token,
            total=timing.total,
            tokens_per_second=timing.tokens_per_second,
        ),
    )


def _choice(text: GeneratedText) -> Choice:
    values: dict[str, Any] = {
        "index": text.index,
        "text": text.text,
        "token_ids": list(text.token_ids),
        "finish_reason": text.finish_reason,
        "window_slides": text.window_slides,
        "story": sight_body(text.story),
    }
    return Choice(**values) if text.logprob is None else ScoredChoice(**values, logprob=text.logprob)


async def _events(service: Service, job: Job, show_candidates: bool) -> AsyncGenerator[str, None]:
    try:
        async for update in updates(job, service.options.keep_alive):
            match update:
                case TextUpdate(at, text, token_ids, reason, _, sentences):
                    yield event("token", {"index": at, "text": text, "token_ids": token_ids, "finish_reason": reason})
                    for sentence in sentences:
                        yield event("sentence", {"index": at, **_sentence(sentence, show_candidates)})
                case WindowUpdate(at, start, text_start, slides, story):
                    moved = {"index": at, "start": start, "text_start": text_start, "slides": slides}
                    yield event("window", moved | story_event(story))
                case Idle():
                    yield KEEP_ALIVE
                case GenerationResult():
                    summary = _response(service, update).model_dump()
                    for choice in summary["choices"]:
                        del choice["text"], choice["token_ids"]
                    yield event("done", summary)
    except ServiceError as error:
        yield event("error", errors.body(error))


def _sentence(sentence: Sentence, show_candidates: bool) -> dict[str, Any]:
    """An event's data: the sentence that was kept, and on request all candidates for it."""
    kept = dataclasses.asdict(sentence.candidates[sentence.kept]) | {"kept": sentence.kept}
    if show_candidates:
        kept["candidates"] = [dataclasses.asdict(candidate) for candidate in sentence.candidates]
    return kept
