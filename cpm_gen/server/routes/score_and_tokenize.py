"""``POST /score``, ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request

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
from cpm_gen.server.sse import unless_disconnected
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.errors import invalid
from cpm_gen.serving.service import Service

_REFUSALS = refusals(400, 401, 422, 429, 500)


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["tools"], responses=_REFUSALS)
    authorise = authorised(service)

    @routes.post("/score", summary="How likely the model holds a text")
    async def score(request: Request, body: ScoreBody, key: ApiKey = Depends(authorise)) -> ScoreAnswer:
        service.require()
        given = body.token_ids if body.text is None else body.text
        if given is None or (body.text is not None and body.token_ids is not None):
            raise invalid("give either text or token_ids", "text")
        scored = await unless_disconnected(request, service.score(given, body.style, key))
        return ScoreAnswer(
            model=service.model_id,
            token_ids=list(scored.token_ids),
            logprobs=list(scored.logprobs),
            perplexity=scored.perplexity,
        )

    @routes.post("/tokenize", summary="A text's token ids")
    async def tokenize(request: Request, body: TokenizeBody, key: ApiKey = Depends(authorise)) -> TokenizeAnswer:
        found = await unless_disconnected(request, service.tokenize(body.text, body.style, key))
        ids = list(found.token_ids)
        return TokenizeAnswer(token_ids=ids, pieces=list(found.pieces), count=len(ids))

    @routes.post("/detokenize", summary="The text of token ids", dependencies=[Depends(authorise)])
    async def detokenize(body: DetokenizeBody) -> DetokenizeAnswer:
        return DetokenizeAnswer(text=await service.detokenize(body.token_ids, body.style))

    return routes
