"""The ASGI application: routes, errors, and the gate in front of them."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

import cpm_gen
from cpm_gen.server import errors
from cpm_gen.server.middleware import Gate
from cpm_gen.server.routes import generate, health, openai, score_and_tokenize, web_page
from cpm_gen.server.routes import works as work_routes
from cpm_gen.serving.service import Service
from cpm_gen.works.manager import Works

_ABOUT = """Chinese lyrics and novels of any length with CPM-1.

Errors are `{"error": {"code", "message", "field"}}`; under `/v1` they have OpenAI's shape."""


def _drop_undocumented(app: FastAPI) -> None:
    """FastAPI documents its own answer to what it cannot read, which ours replaces."""
    document = app.openapi()  # made once
    for path in document["paths"].values():
        for operation in path.values():
            answer = operation["responses"].get("422", {})
            if "HTTPValidationError" in str(answer):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


class _CrossOrigin(CORSMiddleware):
    """What it refuses is refused as everything is, by the gate."""

    def preflight_response(self, request_headers: Headers) -> Response:
        answer = super().preflight_response(request_headers)
        if answer.status_code != 200:
            raise errors.HttpError(400, "cross_origin", bytes(answer.body).decode())
        return answer


def create_app(service: Service, works: Works) -> ASGIApp:
    """Everything that answers requests for a service and its works."""
    app = FastAPI(
        title="cpm-gen",
        version=cpm_gen.__version__,
        description=_ABOUT,
        docs_url=None,  # these load scripts from elsewhere
        redoc_url=None,
    )
    errors.install(app)
    for routes in (generate, openai, score_and_tokenize, health):
        app.include_router(routes.router(service))
    app.include_router(work_routes.router(service, works))
    app.include_router(web_page.router())
    _drop_undocumented(app)
    served: ASGIApp = app
    if service.options.cors_origin:
        served = _CrossOrigin(
            app,
            allow_origins=list(service.options.cors_origin),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
    return Gate(served, service)
