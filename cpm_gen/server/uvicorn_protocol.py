"""A subclass of uvicorn's HTTP protocol that bounds the number of connections and the time of each.

uvicorn itself waits without limit for a request's head and for a response to be read, accepts any number of connections, and answers
in plain text to what is not HTTP. The subclass overrides internals of uvicorn, so pyproject.toml caps its minor version.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.server import errors
from cpm_gen.server.acceptor import ConnectionLimit
from cpm_gen.server.middleware import SECURITY_HEADERS

log = logging.getLogger("cpm_gen.server")

_SPARE = 64  # connections beyond the most open requests, for /health and for refusals
_FILES = 256  # open files other than connections
_PACE = 2**14  # least bytes that a client must read in --send-timeout


class Connection(H11Protocol):
    """One of a bounded number of connections, with a limit on the time a request takes to arrive and a response to be read."""

    options: ServeOptions
    limit: ConnectionLimit

    def __init__(self, *known: Any, **named: Any) -> None:
        super().__init__(*known, **named)
        self._arriving: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection; at the limit, the one that has been idle longest is closed."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # pause writing as soon as the client has not read everything
        self._watch_arrival()
        self.limit.add(self)

    def drop(self) -> None:
        """Close the connection at once."""
        self.connections.discard(self)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        super().connection_lost(exc)
        self.limit.remove(self)
        _cancel(self._arriving)
        _cancel(self._unread)

    def data_received(self, data: bytes) -> None:
        """Pass on a part of a request, and watch its arrival time."""
        super().data_received(data)
        self._watch_arrival()
        self._watch_idle()

    def on_response_complete(self) -> None:
        """The response is written, though possibly not read yet."""
        self._watch_idle()
        super().on_response_complete()
        self._watch_idle()  # the next request may be here already

    def _watch_idle(self) -> None:
        if self._idle:
            self.limit.idle(self)
        else:
            self.limit.busy(self)

    def _watch_arrival(self) -> None:
        if not self._idle:  # the middleware limits the time of the body
            _cancel(self._arriving)
            self._arriving = None
        elif self._arriving is None:
            self._arriving = self.loop.call_later(self.options.body_timeout, self._too_slow)

    def _too_slow(self) -> None:
        begun, _ = self.conn.trailing_data
        if begun:
            most = self.options.body_timeout
            self._refuse(errors.HttpError(408, "body_timeout", f"the request took longer than {most:g} seconds"))
        self.transport.close()

    def pause_writing(self) -> None:
        """The client does not read as fast as the response is written."""
        super().pause_writing()
        self._watch_reader(None)

    def resume_writing(self) -> None:
        """The client has read everything."""
        super().resume_writing()
        _cancel(self._unread)

    def _watch_reader(self, before: int | None) -> None:
        left = self.transport.get_write_buffer_size()
        if before is not None and before - left < _PACE:
            self.transport.abort()  # close() would wait for the client
        else:
            self._unread = self.loop.call_later(self.options.send_timeout, self._watch_reader, left)

    def shutdown(self) -> None:
        """Close at shutdown: give the client a short time to read its response, then abort."""
        super().shutdown()
        self.loop.call_later(0.75 * (self.config.timeout_graceful_shutdown or 0), self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not valid HTTP."""
        self._refuse(errors.HttpError(400, "malformed", "the request is not valid HTTP"))
        self.transport.close()

    def _refuse(self, error: errors.HttpError) -> None:
        """Send an error response, unless the application has begun a response."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        if self.cycle is not None:
            self.cycle.disconnected = True
        body = json.dumps(errors.body(error)).encode()
        own = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        head = h11.Response(status_code=errors.status(error), headers=list((SECURITY_HEADERS | own).items()))
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def connections(settings: ServeOptions) -> type[Connection]:
    """The protocol class for a service. Raises the process's limit of open files to fit its connections."""
    most = settings.connections + _SPARE
    files = raise_open_files_limit(most + _FILES)
    if files < most + _FILES:
        most = max(files // 2, files - _FILES)
        log.warning("this process may open %d files, so there are at most %d connections", files, most)

    class Limited(Connection):
        options = settings
        limit = ConnectionLimit(most)

    return Limited


def raise_open_files_limit(wanted: int) -> int:
    """Raise the limit of open files to ``wanted``, or as far as the system allows; return how many may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # macOS enforces a limit that it does not report
        return soft
    return allowed
