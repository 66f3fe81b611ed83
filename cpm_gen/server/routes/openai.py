"""``/v1``: what OpenAI's clients need to write with this model."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

import cpm_gen
from cpm_gen.server import errors
from cpm_gen.server.authentication import authorised
from cpm_gen.server.routes.foreign import check_model, foreign_spec, reader, short_reason, token_text
from cpm_gen.server.routes.generate import usage_body
from cpm_gen.server.routes.openai_logprobs import CompletionPiece, CompletionText, prompt_pieces
from cpm_gen.server.schemas.openai import (
    ChatAnswer,
    ChatBody,
    CompletionAnswer,
    CompletionBody,
    CompletionChoice,
    ModelCard,
    ModelLimits,
    ModelList,
    OpenAIError,
)
from cpm_gen.server.schemas.refusals import (
    refusals,
)
from cpm_gen.server.sse import EVENT, KEEP_ALIVE, EventStream, event, unless_disconnected
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.errors import ServiceError, invalid
from cpm_gen.serving.job import Job
from cpm_gen.serving.results import GenerationResult, Idle, TextUpdate, TokenUsage, Update, updates, usage
from cpm_gen.serving.service import Service, before

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
    created = int(time.time())

    @routes.get("/models", summary="The model", responses=_refusals(401, 429), dependencies=[Depends(authorise)])
    async def models() -> ModelList:
        return ModelList(data=[_card(service, name, created) for name in dict.fromkeys(service.served_names)])

    @routes.get("/models/{model:path}", responses=_refusals(401, 404, 429), dependencies=[Depends(authorise)])
    async def model(model: str) -> ModelCard:
        check_model(service, model)
        return _card(service, model, created)

    @routes.post(
        "/completions",
        response_model=CompletionAnswer,
        responses=_STREAM | _refusals(400, 401, 404, 429, 500),
        summary="Write texts, as OpenAI's API does",
    )
    async def completions(
        request: Request, body: CompletionBody, key: ApiKey = Depends(authorise)
    ) -> CompletionAnswer | Response:
        written: CompletionAnswer | Response = await answer(request, body, key, _Completion)
        return written

    @routes.post(
        "/chat/completions",
        response_model=ChatAnswer,
        responses=_STREAM | _refusals(400, 401, 404, 429, 500),
        summary="Write on after messages, as OpenAI's chat API does",
    )
    async def chat(request: Request, body: ChatBody, key: ApiKey = Depends(authorise)) -> ChatAnswer | Response:
        written: ChatAnswer | Response = await answer(request, body.completion(), key, _Chat)
        return written

    async def answer(request: Request, body: CompletionBody, key: ApiKey, kind: type[_Completion]) -> Any:
        _check(service, body)
        job = await unless_disconnected(
            request, service.start(foreign_spec(service, body, body.prompts(), body.logprobs), key)
        )
        try:
            read, end = token_text(service, body), service.require().vocabulary.reader.end
            texts = [CompletionText(body.logprobs, read, reader(service, body), end) for _ in range(job.samples)]
            if body.echo:
                async with before(service.deadline()):
                    pieces = await unless_disconnected(request, prompt_pieces(service, job, body))
                for text, piece in zip(texts, pieces, strict=True):
                    text.echo(piece)
        except BaseException:
            service.cancel(job)
            raise
        completion = kind(service, job, body, texts)
        if body.stream:
            return EventStream(completion.events(), lambda: service.cancel(job))
        try:
            return await unless_disconnected(request, completion.whole())
        finally:
            service.cancel(job)

    return routes


def _card(service: Service, name: str, created: int) -> ModelCard:
    options = service.options
    return ModelCard(
        id=name,
        created=created,
        root=service.model_id,
        max_model_len=service.prompt_tokens,
        limits=ModelLimits(
            max_tokens=options.max_text_tokens,
            n=options.max_samples,
            prompts=options.max_prompts,
            prompt_characters=options.max_prompt_chars,
            stop=options.max_stop,
            stop_characters=options.max_stop_chars,
            body_bytes=options.max_body,
        ),
    )


def _check(service: Service, body: CompletionBody) -> None:
    service.require()
    check_model(service, body.model)
    if body.suffix:
        raise invalid("suffix is not supported: the model writes from left to right", "suffix", "unsupported")
    if body.best_of not in (None, body.n or 1):
        raise invalid("best_of is not supported unless it equals n", "best_of", "unsupported")
    if body.tokens == 0 and not body.echo:
        raise invalid("max_tokens may be 0 only with echo", "max_tokens")
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options needs stream", "stream_options")


class _Completion:
    """A job as OpenAI's completion, whole or in pieces."""

    prefix = "cmpl-"

    def __init__(self, service: Service, job: Job, body: CompletionBody, texts: list[CompletionText]) -> None:
        self._service = service
        self._job = job
        self._body = body
        self._texts = texts
        self._usage = usage(job, [])
        self._created = int(time.time())
        self._id = self.prefix + job.id.removeprefix("gen-")

    async def _updates(self) -> AsyncGenerator[Update, None]:
        """The job's updates; none for max_tokens 0, where only the prompt is shown."""
        if self._body.tokens > 0:
            async for update in updates(self._job, self._service.options.keep_alive):
                yield update

    async def _pieces(self) -> AsyncGenerator[CompletionChoice | None, None]:
        """Pieces of choices as they are generated; None after each keep-alive interval without one."""
        generates = self._body.tokens > 0
        for at, text in enumerate(self._texts):
            if text.prompt is not None and (self._body.stream or not generates):
                yield self._choice(at, text.prompt, None if generates else "length")
        async for update in self._updates():
            if isinstance(update, GenerationResult):
                self._usage = update.usage
            elif isinstance(update, TextUpdate):
                reason = short_reason(update.finish_reason)
                yield self._choice(update.index, self._texts[update.index].add(update), reason)
            elif isinstance(update, Idle):
                yield None

    def _choice(self, at: int, piece: CompletionPiece, reason: Any) -> CompletionChoice:
        return CompletionChoice(index=at, text=piece.text, logprobs=piece.logprobs, finish_reason=reason)

    def _response(self, choices: list[CompletionChoice], used: TokenUsage | None) -> CompletionAnswer:
        return CompletionAnswer(
            id=self._id,
            created=self._created,
            model=self._service.served_names[0],
            system_fingerprint=f"cpm-gen-{cpm_gen.__version__}",
            choices=choices,
            usage=None if used is None else usage_body(used),
        )

    def render(self, answer: CompletionAnswer) -> dict[str, Any]:
        """The response without ``stream``."""
        return answer.model_dump()

    def render_piece(self, answer: CompletionAnswer) -> dict[str, Any]:
        """An event's data."""
        return answer.model_dump()

    async def whole(self) -> dict[str, Any]:
        """The response without ``stream``."""
        choices: dict[int, CompletionChoice] = {}
        async for choice in self._pieces():
            if choice is not None:
                choices[choice.index] = choice
        if self._body.tokens > 0:
            for at, text in enumerate(self._texts):
                choices[at] = self._choice(at, text.whole(), choices[at].finish_reason)
        return self.render(self._response([choices[at] for at in sorted(choices)], self._usage))

    async def events(self) -> AsyncGenerator[str, None]:
        """The response with ``stream``."""
        wants_usage = self._body.stream_options is not None and self._body.stream_options.include_usage
        try:
            async for choice in self._pieces():
                if choice is None:
                    yield KEEP_ALIVE
                else:
                    yield event(None, self.render_piece(self._response([choice], None)))
            if wants_usage:
                yield event(None, self.render_piece(self._response([], self._usage)))
            yield event(None, "[DONE]")
        except ServiceError as error:
            yield event(None, errors.body(error, "openai"))


class _Chat(_Completion):
    """A job as OpenAI's chat completion. The first piece of each choice has the role."""

    prefix = "chatcmpl-"

    def __init__(self, service: Service, job: Job, body: CompletionBody, texts: list[CompletionText]) -> None:
        super().__init__(service, job, body, texts)
        self._begun: set[int] = set()

    def render(self, answer: CompletionAnswer) -> dict[str, Any]:
        """The texts as messages."""
        choices = [self._chat_choice(c, {"message": {"role": "assistant", "content": c.text}}) for c in answer.choices]
        return answer.model_dump() | {"object": "chat.completion", "choices": choices}

    def render_piece(self, answer: CompletionAnswer) -> dict[str, Any]:
        """The texts as deltas."""
        choices = []
        for choice in answer.choices:
            role = {} if choice.index in self._begun else {"role": "assistant"}
            self._begun.add(choice.index)
            choices.append(self._chat_choice(choice, {"delta": role | {"content": choice.text}}))
        return answer.model_dump() | {"object": "chat.completion.chunk", "choices": choices}

    def _chat_choice(self, choice: CompletionChoice, said: dict[str, Any]) -> dict[str, Any]:
        return {"index": choice.index} | said | {"logprobs": None, "finish_reason": choice.finish_reason}
