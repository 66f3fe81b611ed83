"""``POST /score``, ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

import asyncio
import math

from fastapi import APIRouter, Depends, Request

from cpm_gen.config.options import StyleName
from cpm_gen.errors import CpmGenError
from cpm_gen.server.authentication import authorised
from cpm_gen.server.schemas.generate import (
    DetokenizeAnswer,
    DetokenizeBody,
    ScoreAnswer,
    ScoreBody,
    TokenizeAnswer,
    TokenizeBody,
    refusals,
)
from cpm_gen.server.sse import unless_gone
from cpm_gen.serving.api_keys import Key
from cpm_gen.serving.errors import from_library, invalid
from cpm_gen.serving.service import Service, in_time
from cpm_gen.text.prompt_styles import detokenizer

_REFUSALS = refusals(400, 401, 422, 429, 500)


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["tools"], responses=_REFUSALS)
    authorise = authorised(service)

    @routes.post("/score", summary="How likely the model holds a text")
    async def score(request: Request, body: ScoreBody, key: Key = Depends(authorise)) -> ScoreAnswer:
        service.require()
        if (body.text is None) == (body.token_ids is None):
            raise invalid("give either text or token_ids", "text")
        field = "text" if body.text is not None else "token_ids"

        async def scored() -> tuple[list[int], list[float]]:
            ids = body.token_ids if body.text is None else await _encode(service, body.text, body.style)
            assert ids is not None
            if len(ids) > service.options.max_text_tokens:
                most = service.options.max_text_tokens
                raise invalid(f"{len(ids):,} tokens; the most here is {most:,}", field, "too_many_tokens")
            try:
                return ids, await service.engine.score(ids)
            except CpmGenError as error:
                raise from_library(error, field) from None

        with key.held():
            service.engine.reserve(1)
            try:
                async with in_time(service.deadline()):
                    ids, scores = await unless_gone(request, scored())
            finally:
                service.engine.release(1)
        service.metrics.scored_tokens.inc(len(scores))
        first: list[float | None] = [None] * min(1, len(ids))
        perplexity = math.exp(min(700.0, -sum(scores) / len(scores))) if scores else None
        return ScoreAnswer(model=service.model_id, token_ids=ids, logprobs=first + list(scores), perplexity=perplexity)

    @routes.post("/tokenize", summary="A text's token ids")
    async def tokenize(request: Request, body: TokenizeBody, key: Key = Depends(authorise)) -> TokenizeAnswer:
        with key.held():
            async with in_time(service.deadline()):
                ids = await unless_gone(request, _encode(service, body.text, body.style))
        tokenizer = service.require().tokenizer
        return TokenizeAnswer(token_ids=ids, pieces=[tokenizer.surface(i) for i in ids], count=len(ids))

    @routes.post("/detokenize", summary="The text of token ids", dependencies=[Depends(authorise)])
    async def detokenize(body: DetokenizeBody) -> DetokenizeAnswer:
        service.check_chars(body.token_ids, "token_ids")
        reader = detokenizer(body.style, service.require().tokenizer)
        try:
            text = await asyncio.to_thread(lambda: "".join(map(reader.push, body.token_ids)))
            return DetokenizeAnswer(text=text)
        except CpmGenError as error:
            raise from_library(error, "token_ids") from None

    return routes


async def _encode(service: Service, text: str, style: StyleName | None) -> list[int]:
    """Token ids of a field called ``text``; raises ServiceError."""
    service.require()
    service.check_chars(text, "text")
    return await service.tokenizing.encode(text, style, "text")
