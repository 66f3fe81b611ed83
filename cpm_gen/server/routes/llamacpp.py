"""``/completion`` and ``/props``: what llama.cpp's clients need to connect and write. Closing the connection stops a text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

import cpm_gen
from cpm_gen.sampling.logprobs import Likelihood
from cpm_gen.server import errors
from cpm_gen.server.authentication import authorised
from cpm_gen.server.routes.foreign import (
    check_model,
    foreign_spec,
    reader,
    short_reason,
    shown_in,
    token_probabilities,
    token_text,
)
from cpm_gen.server.schemas.llamacpp import LlamaAnswer, LlamaBody, LlamaDefaults, LlamaProps, LlamaTimings
from cpm_gen.server.schemas.refusals import (
    refusals,
)
from cpm_gen.server.sse import EVENT, KEEP_ALIVE, EventStream, event, unless_disconnected
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.job import Job
from cpm_gen.serving.results import GenerationResult, Idle, TextUpdate, updates
from cpm_gen.serving.service import Service

_CHAT_TEMPLATE = "{{ messages | map(attribute='content') | join('\\n') }}"
_SHOWN = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text; with `stream`, server-sent events with pieces of it, the last with `stop`",
        "content": {"text/event-stream": {"itemSchema": EVENT}},
    }
}


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["llama.cpp"])
    authorise = authorised(service)

    @routes.get(
        "/props",
        summary="The model, as llama.cpp tells it",
        responses=refusals(401, 429),
        dependencies=[Depends(authorise)],
    )
    async def props() -> LlamaProps:
        return LlamaProps(
            default_generation_settings=LlamaDefaults(
                n_ctx=service.require().window.limit,
                params=_settings(service, LlamaBody.model_validate({"unconditional": True})),
            ),
            total_slots=service.batch,
            model_alias=service.served_names[0],
            model_path=service.model_id,
            chat_template=_CHAT_TEMPLATE,
            build_info=f"cpm-gen {cpm_gen.__version__}",
        )

    @routes.post(
        "/completion",
        response_model=LlamaAnswer,
        response_model_exclude_none=True,
        responses=_STREAM | refusals(400, 401, 404, 422, 429, 500),
        summary="Write a text, as llama.cpp does",
    )
    async def completion(request: Request, body: LlamaBody, key: ApiKey = Depends(authorise)) -> LlamaAnswer | Response:
        check_model(service, body.model)
        if body.max_tokens is None:
            body.max_tokens = service.options.max_text_tokens
        spec = foreign_spec(service, body, [body.prompt], body.n_probs or None)
        job = await unless_disconnected(request, service.start(spec, key))
        text = _Text(service, job, body)
        if body.stream:
            return EventStream(text.events(), lambda: service.cancel(job))
        try:
            return await unless_disconnected(request, text.whole())
        finally:
            service.cancel(job)

    return routes


def _settings(service: Service, body: LlamaBody) -> dict[str, Any]:
    """A request's settings by llama.cpp's names."""
    shown = {name: getattr(body, name) for name in _SHOWN}
    shown["repeat_penalty"] = shown.pop("repetition_penalty")
    tokens = body.max_tokens or service.options.max_text_tokens
    return shown | {"seed": -1, "n_predict": tokens, "stop": list(body.stops), "ignore_eos": body.bans_eod()}


class _Text:
    """A job as llama.cpp's completion, whole or in pieces."""

    def __init__(self, service: Service, job: Job, body: LlamaBody) -> None:
        self._service = service
        self._job = job
        self._body = body
        self._token_text = token_text(service, body)

    async def whole(self) -> LlamaAnswer:
        """The answer without ``stream``."""
        likelihoods: list[Likelihood] = []
        async for update in updates(self._job):
            if isinstance(update, TextUpdate):
                likelihoods += update.likelihoods
            elif isinstance(update, GenerationResult):
                result = update
        answer = self._answer(result)
        if self._body.n_probs:
            answer.completion_probabilities = await asyncio.to_thread(self._probabilities, answer.content, likelihoods)
        return answer

    def _probabilities(self, text: str, likelihoods: Sequence[Likelihood]) -> list[dict[str, Any]]:
        shown = shown_in(text, likelihoods, reader(self._service, self._body))
        return token_probabilities(shown, self._token_text)

    async def events(self) -> AsyncGenerator[str, None]:
        """The answer with ``stream``."""
        written = 0
        try:
            async for update in updates(self._job, self._service.options.keep_alive):
                match update:
                    case TextUpdate():
                        written += len(update.token_ids)
                        yield event(None, self._piece(update, written))
                    case Idle():
                        yield KEEP_ALIVE
                    case GenerationResult():
                        last = self._answer(update).model_dump(exclude_none=True)
                        yield event(None, last | {"content": "", "tokens": []})
        except ServiceError as error:
            yield event(None, errors.body(error))

    def _piece(self, update: TextUpdate, written: int) -> dict[str, Any]:
        piece: dict[str, Any] = {
            "index": 0,
            "content": update.text,
            "tokens": update.token_ids,
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": written,
            "tokens_evaluated": self._job.prompt_tokens,
        }
        if self._body.n_probs:
            shown: Sequence[Likelihood] = update.likelihoods
            if update.finish_reason == "stop":
                shown = shown_in(update.text, shown, reader(self._service, self._body))
            piece["completion_probabilities"] = token_probabilities(shown, self._token_text)
        return piece

    def _answer(self, result: GenerationResult) -> LlamaAnswer:
        text, timing, written = result.texts[0], result.timing, result.usage.completion_tokens
        began = timing.total if timing.first_token is None else timing.first_token
        at_end = text.token_ids[-1:] == (self._service.engine.require().vocabulary.reader.end,)
        return LlamaAnswer(
            content=text.text,
            tokens=list(text.token_ids),
            model=self._service.served_names[0],
            tokens_predicted=written,
            tokens_evaluated=self._job.prompt_tokens,
            truncated=text.window_slides > 0 or self._job.prompt_tokens > self._job.requests[0].window.limit,
            stop_type="limit" if short_reason(text.finish_reason) != "stop" else "eos" if at_end else "word",
            generation_settings=_settings(self._service, self._body) | {"seed": result.seed},
            timings=LlamaTimings(
                prompt_n=self._job.prompt_tokens,
                prompt_ms=began * 1000,
                predicted_n=written,
                predicted_ms=(timing.total - began) * 1000,
                predicted_per_second=timing.tokens_per_second,
            ),
        )
