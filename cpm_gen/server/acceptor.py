"""Accepts connections, and bounds their number at a cost of microseconds each.

asyncio makes a task, a transport and a protocol for every connection, a quarter of a millisecond of CPU time. Thousands of connections
that send nothing would then hold up the requests behind them. Here a connection is a bare socket until its first byte arrives.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("cpm_gen.server")

ACCEPTED = 32  # connections accepted in one turn of the event loop
BACKLOG = 2048  # connections that the system holds until they are accepted
_BURST = 10.0  # seconds without a closed connection after which the next one is logged
_PAUSE = 0.5  # seconds until the next attempt where no file can be opened
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Member(Protocol):
    """A connection that the limit may close."""

    def drop(self) -> None:
        """Close it at once."""


class ConnectionLimit:
    """The open connections, at most ``most``; one more closes the one that has been idle longest."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._open: set[Member] = set()
        self._idle: dict[Member, None] = {}  # those without a request, the one that has been idle longest first
        self._silent_until = 0.0

    def __contains__(self, connection: Member) -> bool:
        return connection in self._open

    def add(self, connection: Member) -> None:
        """Note an open, idle connection; it may close another one, or itself where all others are busy."""
        self._open.add(connection)
        self._idle[connection] = None
        if len(self._open) > self.most:
            self.close_idle()

    def busy(self, connection: Member) -> None:
        """The connection has a request."""
        self._idle.pop(connection, None)

    def idle(self, connection: Member) -> None:
        """The connection waits for a request, from now on unless it did before."""
        if connection in self._open:
            self._idle.setdefault(connection)

    def remove(self, connection: Member) -> None:
        """The connection is closed."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def close_idle(self) -> bool:
        """Close the connection that has been idle longest, and log that once for a burst; False if none is idle."""
        longest = next(iter(self._idle), None)
        if longest is None:
            return False
        self.remove(longest)
        longest.drop()
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until:
            log.warning("more than %d connections: those that are idle longest are closed", self.most)
        self._silent_until = now + _BURST
        return True


class Acceptor:
    """Accepts a listener's connections for :class:`uvicorn.Server`, in place of an ``asyncio.Server``."""

    def __init__(
        self, listener: socket.socket, limit: ConnectionLimit, protocol: Callable[[], asyncio.Protocol], patience: float
    ) -> None:
        """protocol: makes the protocol of a connection. patience: seconds that a connection may take to send its first byte."""
        self._listener = listener
        self._limit = limit
        self._protocol = protocol
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._silent: dict[_Silent, float] = {}  # until when each may send its first byte, the first to end first
        self._sweep: asyncio.TimerHandle | None = None
        self._starting: set[asyncio.Task[object]] = set()
        listener.setblocking(False)
        listener.listen(BACKLOG)
        self._loop.add_reader(listener, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                if not self._limit.close_idle():
                    log.error("no connection can be accepted: %s", error.strerror)
                    self._loop.remove_reader(self._listener)
                    self._loop.call_later(_PAUSE, self._resume)
                return
            connection.setblocking(False)
            _Silent(self, connection)

    def _resume(self) -> None:
        if self._listener.fileno() >= 0:  # not closed in the meantime
            self._loop.add_reader(self._listener, self._accept)

    def _close_late(self) -> None:
        """Close connections that sent nothing in time."""
        now = self._loop.time()
        for silent, deadline in list(self._silent.items()):
            if deadline > now:
                self._sweep = self._loop.call_at(deadline, self._close_late)
                return
            self._limit.remove(silent)
            silent.drop()
        self._sweep = None

    async def _start(self, silent: _Silent) -> None:
        """Give a connection its protocol, which counts itself. Until then it counts as a busy one."""

        def protocol() -> asyncio.Protocol:
            self._limit.remove(silent)
            return self._protocol()

        try:
            with contextlib.suppress(OSError):  # the client is gone
                await self._loop.connect_accepted_socket(protocol, silent.socket)
        finally:
            self._limit.remove(silent)

    def close(self) -> None:
        """Accept nothing more, and close the connections that sent nothing. The listener stays open."""
        self._loop.remove_reader(self._listener)
        if self._sweep is not None:
            self._sweep.cancel()
        for silent in list(self._silent):
            self._limit.remove(silent)
            silent.drop()

    async def wait_closed(self) -> None:
        """Return when connections that sent their first byte have their protocol."""
        await asyncio.gather(*self._starting, return_exceptions=True)


class _Silent:
    """A connection before its first byte."""

    def __init__(self, acceptor: Acceptor, connection: socket.socket) -> None:
        self.socket = connection
        self._file = connection.fileno()  # asyncio takes a number in half the time that it takes a socket in
        self._acceptor = acceptor
        acceptor._limit.add(self)
        if self in acceptor._limit and not self._read():
            acceptor._silent[self] = acceptor._loop.time() + acceptor._patience
            acceptor._loop.add_reader(self._file, self._read)
            if acceptor._sweep is None:
                acceptor._sweep = acceptor._loop.call_later(acceptor._patience, acceptor._close_late)

    def _read(self) -> bool:
        """Start the protocol if a byte is there; False if nothing is. A connection that the client closed is closed."""
        try:
            first = self.socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            first = b""
        acceptor = self._acceptor
        if not first:
            acceptor._limit.remove(self)
            self.drop()
            return True
        self._forget()
        acceptor._limit.busy(self)
        task: asyncio.Task[object] = acceptor._loop.create_task(acceptor._start(self))
        acceptor._starting.add(task)
        task.add_done_callback(acceptor._starting.discard)
        return True

    def _forget(self) -> None:
        if self._acceptor._silent.pop(self, None) is not None:
            self._acceptor._loop.remove_reader(self._file)

    def drop(self) -> None:
        """Close the connection."""
        self._forget()
        self.socket.close()
