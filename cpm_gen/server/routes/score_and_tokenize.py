"""``POST /score``, ``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import TypeVar

from fastapi import APIRouter, Depends, Request

from cpm_gen.server.authentication import authorised
from cpm_gen.server.schemas.refusals import (
    refusals,
)
from cpm_gen.server.schemas.score_and_tokenize import (
    DetokenizeAnswer,
    DetokenizeBody,
    ScoreAnswer,
    ScoreBody,
    TokenizeAnswer,
    TokenizeBody,
    TokenizerInfo,
    VllmDetokenizeAnswer,
    VllmTokenizeAnswer,
)
from cpm_gen.server.sse import unless_disconnected
from cpm_gen.serving import scoring
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.errors import invalid
from cpm_gen.serving.service import Service

T = TypeVar("T")
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
        scored = await unless_disconnected(request, scoring.score(service, given, body.style, key))
        return ScoreAnswer(
            model=service.model_id,
            token_ids=list(scored.token_ids),
            logprobs=list(scored.logprobs),
            perplexity=scored.perplexity,
        )

    @routes.post("/tokenize", summary="A text's token ids")
    async def tokenize(
        request: Request, body: TokenizeBody, key: ApiKey = Depends(authorise)
    ) -> TokenizeAnswer | VllmTokenizeAnswer:
        field, text = _only(text=body.text, prompt=body.prompt, content=body.content)
        found = await unless_disconnected(request, scoring.tokenize(service, text, body.style, key, field))
        ids, pieces = list(found.token_ids), list(found.pieces)
        if body.text is not None:
            return TokenizeAnswer(token_ids=ids, pieces=pieces, count=len(ids))
        return VllmTokenizeAnswer(
            tokens=ids,
            count=len(ids),
            token_strs=pieces if body.return_token_strs else None,
            max_model_len=service.prompt_tokens,
        )

    @routes.post("/detokenize", summary="The text of token ids", dependencies=[Depends(authorise)])
    async def detokenize(body: DetokenizeBody) -> DetokenizeAnswer | VllmDetokenizeAnswer:
        field, ids = _only(token_ids=body.token_ids, tokens=body.tokens)
        text = await scoring.detokenize(service, ids, body.style, field)
        if body.token_ids is None:
            return VllmDetokenizeAnswer(prompt=text, content=text)
        return DetokenizeAnswer(text=text)

    @routes.get(
        "/tokenizer_info", summary="The tokenizer, for lm-evaluation-harness", dependencies=[Depends(authorise)]
    )
    async def tokenizer_info() -> TokenizerInfo:
        tokenizer = service.require().vocabulary.tokenizer
        return TokenizerInfo(
            vocab_size=tokenizer.size,
            model_max_length=service.prompt_tokens,
            eos_token=tokenizer.name(tokenizer.end),
            eos_token_id=tokenizer.end,
            pad_token=tokenizer.name(tokenizer.end),
        )

    return routes


def _only(**given: T | None) -> tuple[str, T]:
    """The one name and value that is given of several names for it; raises ServiceError (invalid) for none and for several."""
    found = [(name, value) for name, value in given.items() if value is not None]
    if len(found) != 1:
        raise invalid(f"give {' or '.join(given)}, one of them", next(iter(given)))
    return found[0]
