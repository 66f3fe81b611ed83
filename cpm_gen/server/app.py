"""The ASGI application: routes, error handlers and middleware."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import cpm_gen
from cpm_gen.server import errors
from cpm_gen.server.middleware import RequestMiddleware
from cpm_gen.server.routes import (
    forms,
    generate,
    health,
    kobold,
    llamacpp,
    openai,
    rewrite,
    score_and_tokenize,
    settings,
    web_page,
)
from cpm_gen.server.routes import works as work_routes
from cpm_gen.server.tracing import traced
from cpm_gen.serving.service import Service
from cpm_gen.works.manager import WorkManager

_ABOUT = """Chinese lyrics and novels of any length with CPM-1.

Errors are `{"error": {"code", "message", "field"}}`; under `/v1` they have OpenAI's shape, under `/api` KoboldAI's."""


def _drop_undocumented(app: FastAPI) -> None:
    """Remove FastAPI's own 422 response from the OpenAPI document: :mod:`errors` replaces it."""
    document = app.openapi()  # FastAPI caches this object
    for path in document["paths"].values():
        for operation in path.values():
            response = operation["responses"].get("422", {})
            if "HTTPValidationError" in str(response):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


class _CrossOrigin(CORSMiddleware):
    """Reports a refused preflight as an error of ours, with our JSON body.

    All headers are allowed: clients send many of their own (``x-stainless-os``), and the origins decide who may send any.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        super().__init__(
            app,
            allow_origins=list(origins),
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["Retry-After", "X-Request-Id", "traceparent"],
        )

    async def refusal(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send ``app``'s response with the headers that let the page read it, also to a preflight."""
        headers = Headers(scope=scope)
        if "origin" in headers:
            await self.simple_response(scope, receive, send, request_headers=headers)
        else:
            await self.app(scope, receive, send)

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code != 200:
            raise errors.HttpError(400, "cross_origin", bytes(response.body).decode())
        return response


def create_routes(service: Service, works: WorkManager) -> FastAPI:
    """The routes and error handlers, with the OpenAPI document; without middleware."""
    app = FastAPI(
        title="cpm-gen",
        version=cpm_gen.__version__,
        description=_ABOUT,
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
    )
    errors.install(app)
    for routes in (generate, rewrite, openai, kobold, llamacpp, score_and_tokenize, forms, health):
        app.include_router(routes.router(service))
    app.include_router(work_routes.router(service, works))
    app.include_router(settings.router())
    app.include_router(web_page.router())
    _drop_undocumented(app)
    return app


def create_app(service: Service, works: WorkManager) -> ASGIApp:
    """The HTTP interface of a service and its works."""
    whole = _create_app(service, works)
    return whole if service.tracer is None else traced(whole, service.tracer)


def _create_app(service: Service, works: WorkManager) -> ASGIApp:
    app = create_routes(service, works)
    origins = service.options.cors_origin
    if not origins:
        return RequestMiddleware(app, service)
    return RequestMiddleware(_CrossOrigin(app, origins), service, lambda answer: _CrossOrigin(answer, origins).refusal)
