"""Errors as HTTP responses: one JSON shape, without stack trace, path or prompt.

Our own endpoints answer ``{"error": {"code": "prompt_too_long", "message": "…", "field": "prompt"}}``. Those under ``/v1`` answer
with OpenAI's ``{"error": {"message": "…", "type": "invalid_request_error", "param": "prompt", "code": "prompt_too_long"}}``, those
under ``/api`` with KoboldAI's ``{"detail": {"msg": "…", "type": "prompt_too_long"}}``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from cpm_gen.config.explain import first_mistake
from cpm_gen.errors import CpmGenError
from cpm_gen.server.schemas.compatible import called
from cpm_gen.serving.errors import Kind, ServiceError, from_library, invalid
from cpm_gen.serving.request_ids import current_request
from cpm_gen.translation import translate

Shape = Literal["ours", "openai", "kobold"]  # of an error's body

_STATUS: Mapping[Kind, int] = {
    "invalid": 422,
    "unauthenticated": 401,
    "not_found": 404,
    "conflict": 409,
    "rate_limited": 429,
    "unavailable": 503,
    "internal": 500,
}
_OPENAI_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
_KOBOLD_TYPES: Mapping[Kind, str] = {"rate_limited": "service_unavailable", "unavailable": "service_unavailable"}
_NAME = re.compile(r"[a-z]+_[a-z_]+|^[a-z]+")  # of a field, in a message


_language = ContextVar("language", default="en")  # of the errors of the request that is being answered


@contextlib.contextmanager
def answering_in(language: str) -> Iterator[None]:
    """Give the errors of this request their messages in a language of :mod:`cpm_gen.translation`."""
    before = _language.set(language)
    try:
        yield
    finally:
        _language.reset(before)


def in_language(message: str) -> str:
    """A message in the language of the request that is being answered."""
    return translate(message, _language.get())


def stored(error: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The error of a work, with its message in that language."""
    return None if error is None else {**error, "message": in_language(error["message"])}


class HttpError(ServiceError):
    """A request that is refused before the service sees it, for a reason that only HTTP has, with its own status."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(code, message, field, kind="internal" if status >= 500 else "invalid")
        self.status = status


class ClientDisconnected(Exception):
    """The client disconnected before the response."""


def status(error: ServiceError, shape: Shape = "ours") -> int:
    """The HTTP status of an error. OpenAI's API knows no 422."""
    found = error.status if isinstance(error, HttpError) else _STATUS[error.kind]
    return 400 if shape == "openai" and found == 422 else found


def headers(error: ServiceError) -> dict[str, str]:
    """The headers that an error's response needs."""
    found = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return found | ({"WWW-Authenticate": "Bearer"} if status(error) == 401 else {})


def body(error: ServiceError, shape: Shape = "ours") -> dict[str, Any]:
    """The JSON body. It repeats the request's id if the caller gave one, and has the message in the language of the request."""
    names = called()
    message = _NAME.sub(lambda word: names.get(word[0], word[0]), error.message)
    field = error.field and ".".join(names.get(part, part) for part in error.field.split("."))
    ids = current_request()
    known = {"request_id": ids.id} if ids and ids.given else {}
    if shape == "ours":
        return {"error": {"code": error.code, "message": in_language(message), "field": field} | known}
    if field and field not in message:  # other servers' clients show the message alone
        message = f"{field} {message}" if message.startswith("must ") else f"{field}: {message}"
    message = in_language(message)
    if shape == "kobold":
        return {"detail": {"msg": message, "type": _KOBOLD_TYPES.get(error.kind, error.code)} | known}
    number = status(error)
    kind = _OPENAI_TYPES.get(number, "server_error" if number >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": field, "code": error.code} | known}


def respond(error: ServiceError, path: str) -> Response:
    """The response to a request for ``path``."""
    shape: Shape = "openai" if path.startswith("/v1/") else "kobold" if path.startswith("/api/") else "ours"
    return JSONResponse(body(error, shape), status(error, shape), headers=headers(error))


def internal_error() -> ServiceError:
    """The error for a bug: details are in the log only."""
    ids = current_request()
    where = f", under {ids.id}" if ids else ""
    return ServiceError("internal", f"something broke; the service's log says what{where}")


_HTTP_ERRORS: Mapping[int, tuple[str, str]] = {
    400: ("malformed", "the body is not valid JSON"),
    404: ("not_found", "there is nothing at this address"),
    405: ("method_not_allowed", "this address does not take that method"),
}


def from_validation(error: RequestValidationError, is_json: bool = True) -> ServiceError:
    """The first mistake in a body, with the name of its field. is_json: whether the request said that its body is JSON."""
    errors = [{**e, "loc": e["loc"][1:]} for e in error.errors()]  # each begins with "body", "query" or "header"
    if errors[0]["type"] == "json_invalid":
        return HttpError(400, "malformed", "the body is not valid JSON")
    field, message = first_mistake(errors)
    if field is None and not is_json and errors[0].get("input"):
        return invalid("the body must be JSON: send it with the header Content-Type: application/json", "Content-Type")
    return invalid(f"{field or 'the body'} {message}", field)


def _methods(app: FastAPI, path: str) -> set[str]:
    """All methods of a path, from the OpenAPI document."""
    found = (methods for route, methods in app.openapi()["paths"].items() if compile_path(route)[0].match(path))
    return {method.upper() for method in next(found, ())}


def install(app: FastAPI) -> None:
    """Give every error of ``app`` our shape."""

    async def service_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServiceError)
        return respond(error, request.url.path)

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        is_json = "json" in request.headers.get("content-type", "").lower()
        return respond(from_validation(error, is_json), request.url.path)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code, message = _HTTP_ERRORS.get(error.status_code, ("refused", "the request was refused"))
        if error.status_code == 404 and request.url.path.startswith("/v1/"):
            known = sorted(p for p in app.openapi()["paths"] if p.startswith("/v1/"))
            message += f"; under /v1 there are: {', '.join(known)}"
        response = respond(HttpError(error.status_code, code, message), request.url.path)
        response.headers.update(error.headers or {})
        if error.status_code == 405 and (methods := _methods(app, request.url.path)):
            methods |= {"HEAD"} if "GET" in methods else set()
            response.headers["Allow"] = ", ".join(sorted(methods))  # Starlette names only those of one route
        return response

    async def library_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, CpmGenError)
        return respond(from_library(error), request.url.path)

    async def client_disconnected(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    async def bug(request: Request, error: Exception) -> Response:
        return respond(internal_error(), request.url.path)

    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(CpmGenError, library_error)
    app.add_exception_handler(ClientDisconnected, client_disconnected)
    app.add_exception_handler(Exception, bug)
