"""What every request passes before the application sees it: how many are open, for whom we answer, how large its body is.

And what every answer gets: security headers, a request id, a line in the log, a count.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cpm_gen.server.errors import ClientGone, ServeError, invalid, respond, unavailable
from cpm_gen.server.service import Service, is_loopback

log = logging.getLogger("cpm_gen.server")

_DISCARD = 2**26  # bytes of a body that is too large

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Gate:
    """Around the application. A body is read whole before the application runs: none is larger than ``max_body``."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._open = 0
        options = service.options
        self._hosts = {h.lower() for h in options.allowed_host}
        if not self._hosts and is_loopback(options.host) and not service.keys.needed:
            self._hosts = {"localhost", "127.0.0.1", "[::1]"}  # a web page whose name points here is not one of us

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        answer = _Answer(send)
        began = time.monotonic()
        self._open += 1
        self._service.metrics.open.set(self._open)
        scope.setdefault("state", {})["id"] = answer.id
        try:
            self._admit(scope)
            await self._app(scope, await self._whole(scope, receive), answer.send)
        except ServeError as error:
            await respond(error, scope["path"])(scope, receive, answer.send)
        except ClientGone:
            answer.status = answer.status or 499
        except Exception:  # the application answered 500 already, or cannot any more
            log.exception("%s: a bug", answer.id)
            if answer.status == 0:
                await respond(ServeError(500, "internal", "something broke"), scope["path"])(
                    scope, receive, answer.send
                )
        finally:
            self._open -= 1
            self._service.metrics.open.set(self._open)
            self._record(scope, answer, time.monotonic() - began)

    def _admit(self, scope: Scope) -> None:
        if self._open > self._service.options.connections:
            raise unavailable("too_many_connections", "too many requests are open", retry_after=1)
        host = Headers(scope=scope).get("host", "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
        if self._hosts and name not in self._hosts:
            raise ServeError(421, "wrong_host", "the service does not answer to this Host", "Host")

    async def _whole(self, scope: Scope, receive: Receive) -> Receive:
        """The body, read; returns a ``receive`` that gives it at once."""
        options = self._service.options
        most = options.max_body
        too_large = ServeError(413, "body_too_large", f"the body is larger than {most:,} bytes")
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal():
            raise invalid("Content-Length is not a number", "Content-Length")
        if int(length) > most:
            await _discard(receive)
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(options.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    body += message.get("body", b"")
                    if len(body) > most:
                        await _discard(receive)
                        raise too_large
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            raise ServeError(
                408, "body_timeout", f"the body took longer than {options.body_timeout:g} seconds"
            ) from None
        first: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return first.pop() if first else await receive()

        return replay

    def _record(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._service.metrics.requests.labels(route, str(answer.status)).inc()
        if self._service.options.access_log:
            user = scope["state"].get("user", "-")
            path = quote(scope["path"][:200], safe="/:-._~")
            log.info("%s %s %s %s %d %.3f s", answer.id, user, scope["method"], path, answer.status, seconds)


async def _discard(receive: Receive) -> None:
    """Read on for a while: a client that is cut off while it sends does not see why."""
    left = _DISCARD
    with contextlib.suppress(TimeoutError):
        while left > 0:
            async with asyncio.timeout(0.3):
                message = await receive()
            if not message.get("more_body"):
                return
            left -= len(message["body"])


class _Answer:
    """Sends, and knows what was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.id = secrets.token_hex(8)
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            headers["X-Request-Id"] = self.id
            if self.status in (408, 413):
                headers["Connection"] = "close"
        await self._send(message)
