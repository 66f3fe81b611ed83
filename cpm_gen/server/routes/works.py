"""``/works``: long texts as durable jobs."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import Response

from cpm_gen.server import errors
from cpm_gen.server.authentication import authorised
from cpm_gen.server.routes.generate import generation_spec, usage_body
from cpm_gen.server.routes.work_events import rendered
from cpm_gen.server.schemas.refusals import (
    refusals,
)
from cpm_gen.server.schemas.stories import sight_body
from cpm_gen.server.schemas.works import (
    STREAM_EXAMPLE,
    ContinueBody,
    WindowPlace,
    WorkAnswer,
    WorkBody,
    WorkChoice,
    WorkList,
    WorkSummary,
)
from cpm_gen.server.sse import EVENT, EventStream
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.generation_spec import seeded
from cpm_gen.serving.service import Service
from cpm_gen.works.live import LiveWork
from cpm_gen.works.manager import WorkManager
from cpm_gen.works.spec import WorkSpec
from cpm_gen.works.views import WorkHead, WorkPage, WorkView

_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `state` first and at every change, `token`, `window`, and `done` at the end. Each has an id; "
        "`Last-Event-ID` continues after it, also in a later process",
        "content": {"text/event-stream": {"itemSchema": EVENT, "example": STREAM_EXAMPLE}},
    },
    204: {"description": "The work is finished, and the client has all of it"},
}


def router(service: Service, works: WorkManager) -> APIRouter:
    """The routes of works."""
    routes = APIRouter(prefix="/works", tags=["works"])
    authorise = authorised(service)

    async def answer(live: LiveWork, token_ids: bool = False) -> WorkAnswer:
        return _answer(await works.view(live, token_ids))

    @routes.post(
        "",
        status_code=201,
        summary="Begin a work",
        responses=refusals(400, 401, 409, 422, 429, 500),
    )
    async def create(body: WorkBody, response: Response, key: ApiKey = Depends(authorise)) -> WorkAnswer:
        with key.running():
            live = await works.create(spec_of(body, service), body.prompt or "", body.metadata, key.name)
        response.headers["Location"] = f"/works/{live.id}"
        return await answer(live)

    @routes.get("", summary="Your works, newest first", responses=refusals(401, 422, 429, 500))
    async def page(
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[str | None, Query(max_length=100, description="`next` of the page before")] = None,
        key: ApiKey = Depends(authorise),
    ) -> WorkList:
        return _list(await works.page(key.name, before, limit))

    @routes.get("/{id}", summary="A work and its texts", responses=refusals(401, 404, 422, 429, 500))
    async def look(
        id: str,
        token_ids: Annotated[bool, Query(description="with the tokens of its texts")] = False,
        key: ApiKey = Depends(authorise),
    ) -> WorkAnswer:
        return await answer(await works.find(id, key.name), token_ids)

    @routes.delete("/{id}", status_code=204, summary="End and forget a work", responses=refusals(401, 404, 429, 500))
    async def delete(id: str, key: ApiKey = Depends(authorise)) -> None:
        await works.delete(await works.find(id, key.name))

    @routes.post("/{id}/pause", summary="Stop for now", responses=refusals(401, 404, 409, 429, 500))
    async def pause(id: str, key: ApiKey = Depends(authorise)) -> WorkAnswer:
        live = await works.find(id, key.name)
        await works.pause(live)
        return await answer(live)

    @routes.post(
        "/{id}/resume", summary="Go on with a paused or failed work", responses=refusals(401, 404, 409, 429, 500)
    )
    async def resume(id: str, key: ApiKey = Depends(authorise)) -> WorkAnswer:
        live = await works.find(id, key.name)
        await works.resume(live)
        return await answer(live)

    @routes.post(
        "/{id}/continue",
        summary="Go on with a finished work",
        responses=refusals(400, 401, 404, 409, 422, 429, 500),
    )
    async def extend(id: str, body: ContinueBody | None = None, key: ApiKey = Depends(authorise)) -> WorkAnswer:
        live = await works.find(id, key.name)
        given = body or ContinueBody()  # type: ignore[call-arg]
        await works.extend(live, given.max_new_tokens, "max_new_tokens" not in given.model_fields_set)
        return await answer(live)

    @routes.get(
        "/{id}/events",
        summary="Follow a work",
        response_class=Response,
        responses=_EVENTS | refusals(401, 404, 422, 429, 500),
    )
    async def events(
        id: str,
        last_event_id: Annotated[str | None, Header(description="id of the last event that the client has")] = None,
        key: ApiKey = Depends(authorise),
    ) -> Response:
        live = await works.find(id, key.name)
        at = live.begin() if last_event_id is None else live.position(last_event_id)
        if last_event_id is not None and live.state == "finished" and at == live.end():
            return Response(status_code=204)
        key.enter()
        return EventStream(rendered(works.follow(live, at)), key.leave)

    return routes


def spec_of(body: WorkBody, service: Service) -> WorkSpec:
    """The spec of a work that a body requests: seed, window and decoder that are left out are chosen here."""
    llm = service.require()
    generation = generation_spec(body, body.prompts, body.sampling(), body.options(body.max_new_tokens))
    seed = seeded(generation.text).seed
    assert seed is not None
    words = llm.vocabulary
    end = words.tokenizer.name(words.tokenizer.end) if words.stops_at_end(generation.text) else None
    window, decoder = service.window(llm, generation), body.decoder or llm.options.decoder
    return WorkSpec.of(generation, seed, window, decoder, end_token=end)


def parameters_of(view: WorkView) -> dict[str, Any]:
    """The parameters as clients see them: the spec without its version, or what is stored where that cannot be read."""
    if view.spec is None:
        return dict(view.parameters)
    parameters = view.spec.write()
    del parameters["version"]
    return parameters


def _head(head: WorkHead) -> dict[str, Any]:
    values = {field.name: getattr(head, field.name) for field in dataclasses.fields(WorkHead)}
    return values | {"error": errors.stored(head.error)}


def _answer(view: WorkView) -> WorkAnswer:
    return WorkAnswer(
        **_head(view),
        parameters=parameters_of(view),
        choices=[
            WorkChoice(
                index=text.index,
                text=text.text,
                token_ids=text.token_ids,
                finish_reason=text.finish_reason,  # type: ignore[arg-type]
                window_slides=text.window_slides,
                window=WindowPlace(start=text.window_start, text_start=text.text_start, story=sight_body(text.story)),
            )
            for text in view.texts
        ],
        usage=usage_body(view.usage),
        event_id=view.event_id,
    )


def _list(page: WorkPage) -> WorkList:
    works = [
        WorkSummary(**_head(work), tokens=work.tokens, characters=work.characters, tail=work.tail)
        for work in page.works
    ]
    return WorkList(works=works, next=page.next)
