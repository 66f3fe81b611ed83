"""The bodies of refusals, and their documentation."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ErrorDetail(BaseModel):
    """What is wrong, for a program (code), for a person (message), and where (field)."""

    code: str
    message: str
    field: str | None


class RefusalDetail(ErrorDetail):
    """What is wrong with a request."""

    request_id: str | None = Field(None, description="the request's X-Request-Id; left out if it had none")


class ErrorAnswer(BaseModel):
    """Every refusal looks like this."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"error": {"code": "queue_full", "message": "too many texts wait already", "field": None}}]
        }
    )

    error: RefusalDetail


_GATE = (408, 413, 421, 503)  # what may become of any request


def refusals(*statuses: int, model: type[BaseModel] = ErrorAnswer) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route and of the gate before it, for its documentation."""
    what = {
        400: "The body is not JSON, or (under /v1) not acceptable",
        401: "No API key, or one that is not known",
        404: "There is no such thing",
        408: "The body did not arrive in time",
        409: "Not as things stand",
        413: "The body is too large",
        421: "The service does not answer to this Host",
        422: "A value is not acceptable; `field` says which",
        429: "Too much at once; `Retry-After` says when to try again",
        500: "Something broke in the service",
        503: "Loading, shutting down, overloaded, or the engine failed; `Retry-After` says when to try again",
    }
    return {status: {"model": model, "description": what[status]} for status in sorted({*statuses, *_GATE})}
