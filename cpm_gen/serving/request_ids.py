"""Names of a request: an id of its own, and the trace that it belongs to at the caller (W3C Trace Context).

The ids of the current request are a context variable, which log lines and error bodies read. Work that is done for a request elsewhere,
in the engine's thread or later, runs within :func:`working_for`.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-[!-~]{0,200})?")


@dataclass(frozen=True)
class RequestIds:
    """The ids of one request.

    Args:
        id: in every response and every log line; 16 hexadecimal digits if the caller gave none.
        given: whether the caller gave it.
        traceparent: the caller's header; None without a valid one.
    """

    id: str
    given: bool = False
    traceparent: str | None = None

    @property
    def trace_id(self) -> str | None:
        """The 32 hexadecimal digits that name the trace."""
        return None if self.traceparent is None else self.traceparent.split("-")[1]


def read_ids(request_id: Sequence[str] = (), traceparent: Sequence[str] = ()) -> RequestIds:
    """The ids of a request with these values of the headers X-Request-Id and traceparent.

    An id is one of at most 128 letters, digits and ``._~:/+=@-``, so that it cannot forge a line of a log. Any other value, and a header
    that is given twice, is left out and replaced by an id of our own; as W3C Trace Context has it, it is no reason to refuse a request.
    """
    given = len(request_id) == 1 and _ID.fullmatch(request_id[0]) is not None
    own = request_id[0] if given else secrets.token_hex(8)
    valid = len(traceparent) == 1 and _is_traceparent(traceparent[0])
    return RequestIds(own, given, traceparent[0] if valid else None)


def _is_traceparent(text: str) -> bool:
    found = _TRACEPARENT.fullmatch(text)
    if found is None or found[1] == "ff" or not int(found[2], 16) or not int(found[3], 16):
        return False
    return found[1] != "00" or found[4] is None  # later versions may append fields


_current: ContextVar[RequestIds | None] = ContextVar("request", default=None)


def current_request() -> RequestIds | None:
    """The ids of the request that this code runs for, if it is one."""
    return _current.get()


def begin_work_for(ids: RequestIds | None) -> None:
    """The rest of this task runs for a request, or for none."""
    _current.set(ids)


@contextlib.contextmanager
def working_for(ids: RequestIds | None) -> Iterator[None]:
    """A block that runs for a request; None: for none."""
    before = _current.set(ids)
    try:
        yield
    finally:
        _current.reset(before)
