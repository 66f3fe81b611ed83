"""``/v1``: what OpenAI's clients need to write with this model."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

import cpm_gen
from cpm_gen.outputs import Completion
from cpm_gen.server import errors
from cpm_gen.server.authentication import authorised
from cpm_gen.server.routes.generate import check_begun, usage
from cpm_gen.server.routes.openai_logprobs import Piece, Text, prompt_texts, reader
from cpm_gen.server.schemas.generate import WindowBody, refusals
from cpm_gen.server.schemas.openai import (
    CompletionAnswer,
    CompletionBody,
    CompletionChoice,
    CompletionUsage,
    ModelCard,
    ModelList,
    OpenAIError,
)
from cpm_gen.server.sse import EVENT, KEEP_ALIVE, EventStream, event, unless_gone
from cpm_gen.serving.api_keys import Key
from cpm_gen.serving.errors import ServiceError, invalid, not_found
from cpm_gen.serving.generation_spec import Wanted
from cpm_gen.serving.job import Job
from cpm_gen.serving.service import Service, in_time

_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The completion; with `stream`, server-sent events with pieces of it, and `data: [DONE]`",
        "content": {"text/event-stream": {"itemSchema": EVENT}},
    }
}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return refusals(*statuses, model=OpenAIError)


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["openai"])
    authorise = authorised(service)
    card = ModelCard(id=service.model_id, created=service.created)

    @routes.get("/models", summary="The model", responses=_refusals(401, 429), dependencies=[Depends(authorise)])
    async def models() -> ModelList:
        return ModelList(data=[card])

    @routes.get("/models/{model:path}", responses=_refusals(401, 404, 429), dependencies=[Depends(authorise)])
    async def model(model: str) -> ModelCard:
        _check_model(service, model)
        return card

    @routes.post(
        "/completions",
        response_model=CompletionAnswer,
        responses=_STREAM | _refusals(400, 401, 404, 429, 500),
        summary="Write texts, as OpenAI's API does",
    )
    async def completions(
        request: Request, body: CompletionBody, key: Key = Depends(authorise)
    ) -> CompletionAnswer | Response:
        _check(service, body)
        job = await unless_gone(request, service.start(_wanted(body), key))
        try:
            read = reader(service, body)
            texts = [Text(body.logprobs, read) for _ in range(job.samples)]
            if body.echo:
                async with in_time(service.deadline()):
                    pieces = await unless_gone(request, prompt_texts(service, job, body))
                for text, piece in zip(texts, pieces, strict=True):
                    text.echo(piece)
        except BaseException:
            service.finish(job)
            raise
        answer = _Answer(service, job, body, texts)
        if body.stream:
            return EventStream(answer.events(), lambda: service.finish(job))
        try:
            return await unless_gone(request, answer.whole())
        finally:
            service.finish(job)

    return routes


def _check_model(service: Service, model: str) -> None:
    if model != service.model_id:
        raise not_found(f"the model here is {service.model_id!r}", "model", "model_not_found")


def _check(service: Service, body: CompletionBody) -> None:
    service.require()
    _check_model(service, body.model)
    if body.suffix:
        raise invalid("suffix is not supported: the model writes from left to right", "suffix", "unsupported")
    if body.logit_bias:
        raise invalid("logit_bias is not supported; banned_ids bans tokens", "logit_bias", "unsupported")
    if body.best_of not in (None, body.n or 1):
        raise invalid("best_of is not supported unless it equals n", "best_of", "unsupported")
    if body.tokens == 0 and not body.echo:
        raise invalid("max_tokens may be 0 only with echo", "max_tokens")
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options needs stream", "stream_options")


def _wanted(body: CompletionBody) -> Wanted:
    window = body.window or WindowBody()  # type: ignore[call-arg]
    return Wanted(
        prompts=body.prompts(),
        sampling=body.sampling(),
        text=body.options(),
        decoder=body.decoder,
        hop=window.hop,
        boundary=window.boundary,
        keep=window.keep,
        truncate=body.truncate_prompt,
        logprobs=body.logprobs,
        limit=body.timeout,
    )


class _Answer:
    def __init__(self, service: Service, job: Job, body: CompletionBody, texts: list[Text]) -> None:
        self._service = service
        self._job = job
        self._body = body
        self._texts = texts
        self._done: dict[int, Completion] = {}
        self._created = int(time.time())
        self._id = "cmpl-" + job.id.removeprefix("gen-")

    async def _pieces(self) -> AsyncGenerator[CompletionChoice | None, None]:
        """Choices as pieces of them are written; None after each silence."""
        job, wants_text = self._job, self._body.tokens > 0
        for at, text in enumerate(self._texts):
            if text.prompt is not None and (self._body.stream or not wants_text):
                yield self._choice(at, text.take_prompt(), None if wants_text else "length")
        while wants_text and (chunks := await job.chunks(self._service.options.keep_alive)) is not None:
            for chunk in chunks:
                at = chunk.place
                reason = None
                if chunk.completion:
                    self._done[at] = chunk.completion
                    reason = "stop" if chunk.completion.finish_reason == "stop" else "length"
                yield self._choice(at, self._texts[at].take(chunk), reason)
            if not chunks:
                yield None
        check_begun(job, list(self._done.values()))

    def _choice(self, at: int, piece: Piece, reason: Any) -> CompletionChoice:
        return CompletionChoice(index=at, text=piece.text, logprobs=piece.logprobs, finish_reason=reason)

    def _body_of(self, choices: list[CompletionChoice], used: CompletionUsage | None) -> CompletionAnswer:
        return CompletionAnswer(
            id=self._id,
            created=self._created,
            model=self._service.model_id,
            system_fingerprint=f"cpm-gen-{cpm_gen.__version__}",
            choices=choices,
            usage=used,
        )

    def _usage(self) -> CompletionUsage:
        return CompletionUsage(**usage(self._job, list(self._done.values())).model_dump())

    async def whole(self) -> CompletionAnswer:
        """The one answer."""
        choices: dict[int, CompletionChoice] = {}
        async for choice in self._pieces():
            if choice is not None:
                choices[choice.index] = choice
        for at, text in enumerate(self._texts):
            if at in self._done:
                piece = text.whole()
                choices[at] = self._choice(at, piece, choices[at].finish_reason)
        return self._body_of([choices[at] for at in sorted(choices)], self._usage())

    async def events(self) -> AsyncGenerator[str, None]:
        """The stream."""
        wants_usage = self._body.stream_options is not None and self._body.stream_options.include_usage
        try:
            async for choice in self._pieces():
                if choice is None:
                    yield KEEP_ALIVE
                else:
                    yield event(None, self._body_of([choice], None).model_dump())
            if wants_usage:
                yield event(None, self._body_of([], self._usage()).model_dump())
            yield event(None, "[DONE]")
        except ServiceError as error:
            yield event(None, errors.body(error, openai=True))
