"""``/api``: what KoboldAI's and KoboldCpp's clients need to connect, write, follow and stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

import cpm_gen
from cpm_gen.sampling.logprobs import Likelihood
from cpm_gen.server import errors
from cpm_gen.server.authentication import authorised
from cpm_gen.server.routes.foreign import (
    foreign_spec,
    reader,
    short_reason,
    shown_in,
    token_probabilities,
    token_text,
)
from cpm_gen.server.schemas.kobold import (
    AbortAnswer,
    CountAnswer,
    CountBody,
    GenKeyBody,
    KoboldAnswer,
    KoboldBody,
    KoboldError,
    KoboldLogprobs,
    KoboldResult,
    KoboldVersion,
    ResultAnswer,
    ValueAnswer,
)
from cpm_gen.server.schemas.refusals import (
    refusals,
)
from cpm_gen.server.sse import EVENT, KEEP_ALIVE, EventStream, event, unless_disconnected
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.job import Job
from cpm_gen.serving.results import Idle, TextUpdate, updates
from cpm_gen.serving.scoring import encode
from cpm_gen.serving.service import Service

_KOBOLDAI = "1.2.5"  # version of KoboldAI United's interface
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events `message` with `token` and `finish_reason` (null before the end), or `error`",
        "content": {"text/event-stream": {"itemSchema": EVENT}},
    }
}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return refusals(*statuses, model=KoboldError)


@dataclass(eq=False)
class _Writing:
    """A text that is being written, as far as it is. user: the name of its API key."""

    user: str
    body: KoboldBody
    job: Job
    text: str = ""
    reason: Literal["stop", "length"] | None = None
    tokens: int = 0


class _AllWriting:
    """The texts that are being written, so that a later request can read one, or end it."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._texts: list[_Writing] = []

    async def begin(self, request: Request, body: KoboldBody, key: ApiKey) -> _Writing:
        """Submit a text. Call :meth:`end` at the end in any case."""
        prompts: list[str | list[int]] = [body.prompt]
        keep = None
        if body.memory:
            text = body.memory + body.prompt
            ids = await unless_disconnected(request, encode(self._service, text, body.style, key, "prompt"))
            prompts, keep = [ids], await asyncio.to_thread(self._kept, body, ids)
        spec = foreign_spec(self._service, body, prompts, body.best, keep)
        writing = _Writing(key.name, body, await unless_disconnected(request, self._service.start(spec, key)))
        self._texts.append(writing)
        return writing

    def _kept(self, body: KoboldBody, prompt: Sequence[int]) -> int:
        """How many tokens stay in the window: those that read as the memory, at most half of it, so that the text has room."""
        decoder, left = reader(self._service, body), len(body.memory)
        most = self._service.require().window.limit // 2
        for count, token in enumerate(prompt[:most]):
            if left <= 0:
                return count
            left -= len(decoder.push(token))
        return min(most, len(prompt))

    def end(self, writing: _Writing) -> None:
        """Forget a text, and cancel it if it still runs."""
        self._service.cancel(writing.job)
        if writing in self._texts:
            self._texts.remove(writing)

    def find(self, key: ApiKey, genkey: str) -> _Writing | None:
        """The newest text with a genkey. Of those without one, the only one: it is not known which of several is meant."""
        found = [w for w in self._texts if w.user == key.name and w.body.genkey == genkey]
        return found[-1] if found and (genkey or len(found) == 1) else None

    async def updates(self, writing: _Writing) -> AsyncGenerator[TextUpdate | None, None]:
        """The pieces of a text; None after each keep-alive interval without one. Ends early if the text is cancelled."""
        async for update in updates(writing.job, self._service.options.keep_alive):
            if isinstance(update, TextUpdate):
                writing.text += update.text
                writing.tokens += len(update.token_ids)
                writing.reason = short_reason(update.finish_reason)
                yield update
            elif isinstance(update, Idle):
                yield None


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/api", tags=["koboldai"])
    authorise = authorised(service)
    texts = _AllWriting(service)
    reads: dict[str, Any] = {"responses": _refusals(401, 429), "dependencies": [Depends(authorise)]}

    @routes.get("/v1/info/version", summary="Version of KoboldAI United's interface", **reads)
    async def united_version() -> ResultAnswer:
        return ResultAnswer(result=_KOBOLDAI)

    @routes.get("/v1/model", summary="The model", **reads)
    async def model() -> ResultAnswer:
        service.require()
        return ResultAnswer(result=service.served_names[0])

    @routes.get("/v1/config/max_length", summary="Most tokens of a text", **reads)
    async def max_length() -> ValueAnswer:
        return ValueAnswer(value=service.options.max_text_tokens)

    @routes.get("/v1/config/max_context_length", summary="Tokens of a prompt that the model sees", **reads)
    @routes.get("/extra/true_max_context_length", summary="Tokens of a prompt that the model sees", **reads)
    async def max_context_length() -> ValueAnswer:
        return ValueAnswer(value=service.require().window.limit)

    @routes.get("/extra/version", summary="Version of KoboldCpp's interface", **reads)
    async def version() -> KoboldVersion:
        return KoboldVersion(cpm_gen=cpm_gen.__version__, protected=service.keys.needed)

    @routes.post("/extra/tokencount", summary="A text's tokens", responses=_refusals(400, 401, 422, 429, 500))
    async def count(request: Request, body: CountBody, key: ApiKey = Depends(authorise)) -> CountAnswer:
        ids = await unless_disconnected(request, encode(service, body.prompt, key=key, field="prompt"))
        return CountAnswer(value=len(ids), ids=ids)

    @routes.post("/v1/generate", summary="Write a text, as KoboldAI does", responses=_refusals(400, 401, 422, 429, 500))
    async def generate(request: Request, body: KoboldBody, key: ApiKey = Depends(authorise)) -> KoboldAnswer:
        async def whole() -> KoboldResult:
            likelihoods: list[Likelihood] = []
            async for update in texts.updates(writing):
                likelihoods += update.likelihoods if update else ()
            result = _result(writing)
            result.finish_reason = result.finish_reason or "length"
            if body.best is not None:
                result.logprobs = await asyncio.to_thread(_logprobs, service, body, writing.text, likelihoods)
            return result

        writing = await texts.begin(request, body, key)
        try:
            return KoboldAnswer(results=[await unless_disconnected(request, whole())])
        finally:
            texts.end(writing)

    @routes.post(
        "/extra/generate/stream",
        response_class=Response,
        summary="Write a text, as KoboldCpp streams it",
        responses=_STREAM | _refusals(400, 401, 422, 429, 500),
    )
    async def stream(request: Request, body: KoboldBody, key: ApiKey = Depends(authorise)) -> Response:
        writing = await texts.begin(request, body, key)
        return EventStream(_events(service, texts, writing), lambda: texts.end(writing))

    @routes.post("/extra/generate/check", summary="A text as far as it is", responses=_refusals(400, 401, 422, 429))
    async def check(body: GenKeyBody | None = None, key: ApiKey = Depends(authorise)) -> KoboldAnswer:
        writing = texts.find(key, body.genkey if body else "")
        return KoboldAnswer(results=[_result(writing) if writing else KoboldResult(text="")])

    @routes.post("/extra/abort", summary="End a text", responses=_refusals(400, 401, 422, 429))
    async def abort(body: GenKeyBody | None = None, key: ApiKey = Depends(authorise)) -> AbortAnswer:
        writing = texts.find(key, body.genkey if body else "")
        if writing is not None:
            texts.end(writing)
        return AbortAnswer(success=writing is not None)

    return routes


def _logprobs(service: Service, body: KoboldBody, text: str, likelihoods: Sequence[Likelihood]) -> KoboldLogprobs:
    """Log-probabilities of the tokens of a whole text. Takes seconds for the longest ones."""
    shown = shown_in(text, likelihoods, reader(service, body))
    return KoboldLogprobs(content=token_probabilities(shown, token_text(service, body)))


def _result(writing: _Writing) -> KoboldResult:
    """A text as far as it is."""
    return KoboldResult(
        text=writing.text,
        finish_reason=writing.reason,
        prompt_tokens=writing.job.prompt_tokens,
        completion_tokens=writing.tokens,
    )


async def _events(service: Service, texts: _AllWriting, writing: _Writing) -> AsyncGenerator[str, None]:
    text = token_text(service, writing.body)
    try:
        async for update in texts.updates(writing):
            if update is None:
                yield KEEP_ALIVE
                continue
            piece: dict[str, Any] = {"token": update.text, "finish_reason": writing.reason}
            if update.likelihoods and update.text:
                piece["top_logprobs"] = token_probabilities(update.likelihoods[:1], text)[0]["top_logprobs"]
            yield event("message", piece)
    except ServiceError as error:
        yield event("error", errors.body(error, "kobold"))
