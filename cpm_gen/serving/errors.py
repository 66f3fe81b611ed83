"""The one error that the service raises for a request that it refuses or cannot finish.

It has a code for programs and a message for people. How a caller presents it, for instance as an HTTP status, is the caller's
decision by ``kind``: :mod:`cpm_gen.server.errors` does so for HTTP.
"""

from __future__ import annotations

import logging
from typing import Literal

from cpm_gen.errors import ConfigError, CpmGenError, InputError
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.stories.story import StoryError

log = logging.getLogger("cpm_gen.serving")

Kind = Literal["invalid", "unauthenticated", "not_found", "conflict", "rate_limited", "unavailable", "internal"]


class ServiceError(Exception):
    """A request that was refused or that failed.

    Args:
        code: names the error for programs, for instance ``prompt_too_long``; codes do not change between versions.
        message: one sentence for people, without a path, a prompt or a stack trace.
        field: the part of the request that is wrong, for instance ``prompt.1``.
        retry_after: seconds after which the same request may succeed.
        kind: the class of error. Use a constructor such as :func:`invalid` for every kind but ``internal``.
    """

    def __init__(
        self,
        code: str,
        message: str,
        field: str | None = None,
        retry_after: int | None = None,
        *,
        kind: Kind = "internal",
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.kind = kind


def invalid(message: str, field: str | None = None, code: str = "invalid") -> ServiceError:
    """A value in the request is not acceptable. Retrying does not help."""
    return ServiceError(code, message, field, kind="invalid")


def unauthenticated(code: str, message: str) -> ServiceError:
    """The request has no API key, or one that is not known."""
    return ServiceError(code, message, kind="unauthenticated")


def not_found(message: str, field: str | None = None, code: str = "not_found") -> ServiceError:
    """The thing that the request names does not exist."""
    return ServiceError(code, message, field, kind="not_found")


def conflict(code: str, message: str) -> ServiceError:
    """The request does not fit the present state of the thing it names."""
    return ServiceError(code, message, kind="conflict")


def rate_limited(code: str, message: str, retry_after: int) -> ServiceError:
    """A limit on requests, streams or queue length is reached."""
    return ServiceError(code, message, retry_after=retry_after, kind="rate_limited")


def unavailable(code: str, message: str, retry_after: int = 5) -> ServiceError:
    """The service cannot answer now: it loads, drains, is overloaded, or the engine failed."""
    return ServiceError(code, message, retry_after=retry_after, kind="unavailable")


def from_library(error: CpmGenError, field: str | None = None) -> ServiceError:
    """Convert an error of the library.

    A mistake in the request keeps its message and gets ``field``; one in a form or a story names its own. Any other error is logged, and
    its text is not shown to the client.
    """
    if isinstance(error, FormError):
        return invalid(str(error), error.what, "bad_form")
    if isinstance(error, StoryError):
        return invalid(str(error), "story", "bad_story")
    if isinstance(error, (ConfigError, InputError)):
        return invalid(str(error), field)
    log.error("%s: %s", type(error).__name__, error)
    return ServiceError("engine_error", "the network could not answer; the service's log says why")
