"""``GET /health/live``, ``/health/ready``, ``/health`` and ``/metrics``."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from pydantic import BaseModel

from cpm_gen.server.authentication import authorised
from cpm_gen.server.schemas.refusals import (
    refusals,
)
from cpm_gen.serving.metrics import CONTENT_TYPE
from cpm_gen.serving.service import Service


class Live(BaseModel):
    """The process responds."""

    status: Literal["live"] = "live"


class Ready(BaseModel):
    """Requests are accepted."""

    status: Literal["ready"] = "ready"
    model: str


class Health(BaseModel):
    """Requests are accepted, in llama.cpp's words."""

    status: Literal["ok"] = "ok"


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["health"])
    is_open = service.options.open_metrics
    exposition: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    always = {
        status: what for status, what in refusals().items() if status != 503
    }  # it also responds while the service loads or drains

    @routes.get("/health/live", summary="Does the process answer?", responses=always)
    async def live() -> Live:
        return Live()

    @routes.get("/health/ready", summary="Does the network answer?", responses=refusals())
    async def ready() -> Ready:
        await service.check_ready()
        return Ready(model=service.model_id)

    @routes.get("/health", summary="As /health/ready, for clients of llama.cpp and vLLM", responses=refusals())
    async def health() -> Health:
        await service.check_ready()
        return Health()

    @routes.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=Response,
        responses=exposition | refusals(*(() if is_open else (401, 429))),
        dependencies=[] if is_open else [Depends(authorised(service))],
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return routes
