"""``POST /rewrite``: candidates for a passage of a text."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Request

from cpm_gen.runtime.rewrite import Candidate
from cpm_gen.server.authentication import authorised
from cpm_gen.server.routes.generate import usage_body
from cpm_gen.server.schemas.refusals import (
    refusals,
)
from cpm_gen.server.schemas.rewrite import CandidateAnswer, RewriteAnswer, RewriteBody
from cpm_gen.server.sse import unless_disconnected
from cpm_gen.serving import rewriting
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.service import Service


def router(service: Service) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["generate"])
    authorise = authorised(service)

    @routes.post(
        "/rewrite",
        summary="Candidates for a passage, ranked by how well the text goes on after them",
        responses=refusals(400, 401, 422, 429, 500),
    )
    async def rewrite(request: Request, body: RewriteBody, key: ApiKey = Depends(authorise)) -> RewriteAnswer:
        spec = rewriting.RewriteSpec(
            text=body.text, start=body.start, end=body.end, sampling=body.sampling(), options=body.options()
        )
        result = await unless_disconnected(request, rewriting.rewrite(service, spec, key))
        found = result.rewrites
        return RewriteAnswer(
            model=service.model_id,
            seed=found.seed,
            start=found.start,
            end=found.end,
            selection=None if found.selection is None else _shown(found.selection),
            candidates=[_shown(candidate) for candidate in found.candidates],
            drawn=found.drawn,
            right_tokens=found.right_tokens,
            notes=list(found.notes),
            usage=usage_body(result.usage),
        )

    return routes


def _shown(candidate: Candidate) -> CandidateAnswer:
    return CandidateAnswer(
        text=candidate.text,
        token_ids=list(candidate.token_ids),
        own=candidate.own,
        right=candidate.right,
        total=candidate.total,
    )
