"""Errors of works: constructors for what the manager refuses, and the error of a stored work that cannot be read."""

from __future__ import annotations

from typing import Any

from cpm_gen.errors import CpmGenError
from cpm_gen.serving.errors import ServiceError, conflict, not_found


class UnreadableWork(CpmGenError):
    """A stored work that this version cannot continue. ``field``: the part of it that cannot be read."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def refusal(self) -> ServiceError:
        """The error of a request to continue the work."""
        error = conflict("unreadable_work", self.message)
        error.field = self.field
        return error


def detail(error: ServiceError) -> dict[str, Any]:
    """Code, message and field of an error, as a work stores them."""
    return {"code": error.code, "message": error.message, "field": error.field}


def wrong_state(state: str, hint: str) -> ServiceError:
    """The request does not fit the state of the work."""
    return conflict("wrong_state", f"the work is {state}; {hint}")


def no_such_work() -> ServiceError:
    """The owner has no work of that id."""
    return not_found("there is no such work")


def too_many_works(limit: int) -> ServiceError:
    """The owner stores as many works as the service allows."""
    return conflict("too_many_works", f"{limit:,} works are stored already; delete some")


def other_model(message: str) -> ServiceError:
    """The work was begun by another network than the loaded one."""
    return conflict("other_model", message)


def internal() -> ServiceError:
    """A bug of the service stopped the work."""
    return ServiceError("internal", "something broke; the service's log says what")
