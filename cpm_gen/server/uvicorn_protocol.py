"""A client's connection, and how many of them there may be.

uvicorn waits for ever for a request's head, and for an answer to be read; it takes any number of connections, and refuses in
plain text what is not HTTP.
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
from cpm_gen.server.middleware import HEADERS

log = logging.getLogger("cpm_gen.server")

_SPARE = 64  # connections beyond the requests that may be open: for /health, and for refusals
_FILES = 256  # open files that are no connections
_PACE = 2**14  # bytes that a client has to take in --send-timeout, where that much is left


class Connection(H11Protocol):
    """One of at most ``most``. A request has its time to arrive, and an answer its time to be read."""

    options: ServeOptions
    most: int

    def __init__(self, *known: Any, **named: Any) -> None:
        super().__init__(*known, **named)
        self._idle_since = self.loop.time()
        self._arriving: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; where there is no room, who has waited longest without a request gives way."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # every byte that the client does not take pauses writing
        self._watch_arrival()
        if len(self.connections) > self.most:
            idle = (c for c in self.connections if isinstance(c, Connection) and c._idle)
            longest = min(idle, key=lambda c: c._idle_since)
            self.connections.discard(longest)
            longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        _cancel(self._arriving)
        _cancel(self._unread)

    def data_received(self, data: bytes) -> None:
        """More of a request."""
        super().data_received(data)
        self._watch_arrival()

    def on_response_complete(self) -> None:
        """The answer is written, if not read."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def _watch_arrival(self) -> None:
        if not self._idle:  # the gate looks after the body
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
        """The client does not take what it is sent."""
        super().pause_writing()
        self._watch_reader(None)

    def resume_writing(self) -> None:
        """It took all."""
        super().resume_writing()
        _cancel(self._unread)

    def _watch_reader(self, before: int | None) -> None:
        left = self.transport.get_write_buffer_size()
        if before is not None and before - left < _PACE:
            self.transport.abort()  # to close would be to wait for the client
        else:
            self._unread = self.loop.call_later(self.options.send_timeout, self._watch_reader, left)

    def shutdown(self) -> None:
        """The service ends: an answer may be read a little longer, but who does not read it is not waited for."""
        super().shutdown()
        self.loop.call_later(0.75 * (self.config.timeout_graceful_shutdown or 0), self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._refuse(errors.HttpError(400, "malformed", "the request is not valid HTTP"))
        self.transport.close()

    def _refuse(self, error: errors.HttpError) -> None:
        """Answer for the application; where it has begun an answer, there is nothing to say."""
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        if self.cycle is not None:
            self.cycle.disconnected = True
        body = json.dumps(errors.body(error)).encode()
        own = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        head = h11.Response(status_code=errors.status(error), headers=list((HEADERS | own).items()))
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def connections(settings: ServeOptions) -> type[Connection]:
    """The connections of a service; the limit of open files is raised for as many as there may be."""
    room = settings.connections + _SPARE
    files = _open_files(room + _FILES)
    if files < room + _FILES:
        room = max(files // 2, files - _FILES)
        log.warning("this process may open %d files, so there are at most %d connections", files, room)

    class Limited(Connection):
        options = settings
        most = room

    return Limited


def _open_files(wanted: int) -> int:
    """How many files may be open: as many as are wanted, or as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # macOS knows a limit that it does not tell
        return soft
    return allowed
