"""What the service refuses."""

from __future__ import annotations

import logging
from typing import Any

from cpm_gen.errors import ConfigError, CpmGenError, InputError

log = logging.getLogger("cpm_gen.server")

_OPENAI_NAMES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}


class ServeError(Exception):
    """An answer that is an error. ``retry_after``: seconds after which the same request may succeed."""

    def __init__(
        self, status: int, code: str, message: str, field: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.retry_after = retry_after

    def headers(self) -> dict[str, str]:
        """Headers that belong to the refusal."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})

    def body(self, openai: bool = False) -> dict[str, Any]:
        """The JSON body, in our shape or OpenAI's."""
        if not openai:
            return {"error": {"code": self.code, "message": self.message, "field": self.field}}
        kind = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )
        param = _OPENAI_NAMES.get(self.field or "", self.field)
        return {"error": {"message": self.message, "type": kind, "param": param, "code": self.code}}


class ClientGone(Exception):
    """Nobody waits for the answer."""


def invalid(message: str, field: str | None = None, code: str = "invalid") -> ServeError:
    """A request that no retry makes valid."""
    return ServeError(422, code, message, field)


def unavailable(code: str, message: str, retry_after: int = 5) -> ServeError:
    """The service cannot answer now."""
    return ServeError(503, code, message, retry_after=retry_after)


def explain(error: CpmGenError, field: str | None = None) -> ServeError:
    """A mistake that the library found, as a refusal; what the library says of its own troubles stays in the log."""
    if isinstance(error, (ConfigError, InputError)):
        return invalid(str(error), field)
    log.error("%s: %s", type(error).__name__, error)
    return ServeError(500, "engine_error", "the network could not answer; the service's log says why")
