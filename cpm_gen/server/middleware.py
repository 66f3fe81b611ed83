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

from cpm_gen.server.errors import ClientDisconnected, HttpError, internal_error, respond
from cpm_gen.server.exposure import is_loopback
from cpm_gen.serving.errors import ServiceError, invalid, unavailable
from cpm_gen.serving.service import Service

log = logging.getLogger("cpm_gen.server")

_DISCARD = 2**26  # bytes of a body that is too large

_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}

HEADERS = {  # of every answer
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
        if self._hosts or (is_loopback(options.host) and not service.keys.needed):
            self._hosts |= _LOOPBACK  # a web page whose name points here is not one of us

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
            body = await self._whole(scope, receive) if self._known(scope) else b""
            await self._app(scope, _replay(body, receive), answer.send)
        except ServiceError as error:
            await respond(error, scope["path"])(scope, receive, answer.send)
        except ClientDisconnected:
            answer.status = answer.status or 499
        except Exception:  # the application answered 500 already, or cannot any more
            log.exception("%s: a bug", answer.id)
            if answer.status == 0:
                await respond(internal_error(), scope["path"])(scope, receive, answer.send)
        finally:
            self._open -= 1
            self._service.metrics.open.set(self._open)
            self._record(scope, answer, time.monotonic() - began)

    def _admit(self, scope: Scope) -> None:
        if self._open > self._service.options.connections and not scope["path"].startswith("/health/"):
            raise unavailable("too_many_connections", "too many requests are open", retry_after=1)
        host = Headers(scope=scope).get("host", "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
        if self._hosts and name not in self._hosts:
            raise HttpError(421, "wrong_host", "the service does not answer to this Host", "Host")

    def _known(self, scope: Scope) -> bool:
        """Whether the body is worth reading: who has no key is refused by the route, and must not hold a place with it."""
        with contextlib.suppress(ServiceError):
            self._service.keys.find(Headers(scope=scope).get("authorization"))
            return True
        return False

    async def _whole(self, scope: Scope, receive: Receive) -> bytes:
        """The body, read; raises ServiceError for one that is too large or too slow."""
        options = self._service.options
        length = Headers(scope=scope).get("content-length", "0")
        if not length.isdecimal():
            raise invalid("Content-Length is not a number", "Content-Length")
        too_large = int(length) > options.max_body
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(options.body_timeout):
                while more and not too_large:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnected
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    too_large = len(body) > options.max_body
                if too_large:
                    await _discard(receive)
        except TimeoutError:
            if not too_large:
                raise HttpError(
                    408, "body_timeout", f"the body took longer than {options.body_timeout:g} seconds"
                ) from None
        if too_large:
            raise HttpError(413, "body_too_large", f"the body is larger than {options.max_body:,} bytes")
        return bytes(body)

    def _record(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._service.metrics.requests.labels(route, str(answer.status)).inc()
        if self._service.options.access_log:
            user = scope["state"].get("user", "-")
            path = quote(scope["path"][:200], safe="/:-._~")
            log.info("%s %s %s %s %d %.3f s", answer.id, user, scope["method"], path, answer.status, seconds)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives a whole body at once."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


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
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            headers["X-Request-Id"] = self.id
            if self.status in (408, 413):
                headers["Connection"] = "close"
        await self._send(message)
