"""What the service refuses and how it says so: one JSON shape, no stack trace, no path, no prompt.

``{"error": {"code": "prompt_too_long", "message": "…", "field": "prompt"}}``, and for ``/v1`` OpenAI's
``{"error": {"message": "…", "type": "invalid_request_error", "param": "prompt", "code": "prompt_too_long"}}``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from cpm_gen.errors import CpmGenError
from cpm_gen.serving.errors import ClientGone, ServeError, explain, invalid

log = logging.getLogger("cpm_gen.server")


def respond(error: ServeError, path: str) -> Response:
    """The answer to a request for ``path``."""
    openai = path.startswith("/v1/")
    status = 400 if openai and error.status == 422 else error.status
    return JSONResponse(error.body(openai), status, headers=error.headers())


_KINDS = ("str", "int", "float", "bool", "dict", "none")
_STATUS_CODES: Mapping[int, tuple[str, str]] = {
    400: ("malformed", "the body is not valid JSON"),
    404: ("not_found", "there is nothing at this address"),
    405: ("method_not_allowed", "this address does not take that method"),
}


def from_validation(error: RequestValidationError) -> ServeError:
    """The first thing that is wrong with a body, named."""
    first = error.errors()[0]
    # the kind that a value might have been stands in the way to it, too
    where = [
        str(part) for part in first["loc"][1:] if isinstance(part, int) or (part not in _KINDS and part.isidentifier())
    ]
    if first["type"] == "json_invalid":
        return ServeError(400, "malformed", "the body is not valid JSON")
    field = ".".join(where) or None
    message = str(first["msg"]).removeprefix("Value error, ")
    return invalid(message[:1].lower() + message[1:], field)


def _methods(app: FastAPI, address: str) -> set[str]:
    """All methods that an address takes, as the documentation tells."""
    ways = (ways for path, ways in app.openapi()["paths"].items() if compile_path(path)[0].match(address))
    return {method.upper() for method in next(ways, ())}


def install(app: FastAPI) -> None:
    """Give every error of ``app`` our shape."""

    async def serve_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServeError)
        return respond(error, request.url.path)

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return respond(from_validation(error), request.url.path)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code, message = _STATUS_CODES.get(error.status_code, ("refused", "the request was refused"))
        answer = respond(ServeError(error.status_code, code, message), request.url.path)
        answer.headers.update(error.headers or {})
        if error.status_code == 405 and (methods := _methods(app, request.url.path)):
            answer.headers["Allow"] = ", ".join(sorted(methods))  # the error knows those of one route
        return answer

    async def library_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, CpmGenError)
        return respond(explain(error), request.url.path)

    async def client_gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    async def bug(request: Request, error: Exception) -> Response:
        return respond(ServeError(500, "internal", "something broke; the service's log says what"), request.url.path)

    app.add_exception_handler(ServeError, serve_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(CpmGenError, library_error)
    app.add_exception_handler(ClientGone, client_gone)
    app.add_exception_handler(Exception, bug)
