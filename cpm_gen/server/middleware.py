"""The middleware around the application.

Before the application it bounds the open requests, checks the Host header and reads the body. Each response gets security headers and
a request id, and is logged and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cpm_gen.server.errors import ClientDisconnected, HttpError, answering_in, internal_error, respond
from cpm_gen.server.exposure import is_loopback
from cpm_gen.serving.api_keys import ApiKey
from cpm_gen.serving.errors import ServiceError, invalid, unavailable
from cpm_gen.serving.request_ids import RequestIds, read_ids, working_for
from cpm_gen.serving.service import Service
from cpm_gen.translation import language_of_request

log = logging.getLogger("cpm_gen.server")

_DISCARD = 2**26  # most bytes of a too large body that are read and discarded

_PROMPT = 1.0  # seconds within which a body arrives that is sent at once

_FORM = ("", "application/x-www-form-urlencoded")  # what curl -d says of any body, and what is said without a header

_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class RequestMiddleware:
    """An ASGI application around ``app``, which gets only requests whose body is complete and at most ``max_body`` bytes."""

    def __init__(
        self, app: ASGIApp, service: Service, wrapped: Callable[[ASGIApp], ASGIApp] = lambda answer: answer
    ) -> None:
        """wrapped: what adds to a refusal the headers that ``app`` adds to its responses."""
        self._app = app
        self._wrapped = wrapped
        self._service = service
        self._open = 0
        options = service.options
        self._hosts = {h.lower() for h in options.allowed_host}
        if self._hosts or (is_loopback(options.host) and not service.keys.needed):
            self._hosts |= _LOOPBACK  # refuses a web page whose own host name resolves to 127.0.0.1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        tracer = self._service.tracer
        own = None if tracer is None else tracer.traceparent()  # the span of this request, in the caller's trace
        ids = read_ids(headers.getlist("x-request-id"), headers.getlist("traceparent") if own is None else [own])
        language = language_of_request(headers.get("accept-language", ""))
        with working_for(ids), answering_in(language):
            await self._respond(scope, receive, _ResponseSender(send, ids, scope["method"] == "HEAD"))

    async def _respond(self, given: Scope, receive: Receive, response: _ResponseSender) -> None:
        began = time.monotonic()
        self._open += 1
        self._service.metrics.open.set(self._open)
        scope = _normalised(given)
        scope.setdefault("state", {})
        try:
            self._admit(scope)
            key = self._key(scope)
            body = b"" if key is None else await self._read_body(scope, receive, key)
            if body:
                _declare_json(scope)
            await self._app(scope, _replay(body, receive), self._naming_spans(scope, response.send))
        except ServiceError as error:
            await self._wrapped(respond(error, scope["path"]))(scope, receive, response.send)
        except ClientDisconnected:
            response.status = response.status or 499
        except Exception:  # a bug: the application has sent a 500 response, or has begun another one
            log.exception("a bug")
            if response.status == 0:
                await self._wrapped(respond(internal_error(), scope["path"]))(scope, receive, response.send)
        finally:
            self._open -= 1
            self._service.metrics.open.set(self._open)
            self._record(given, scope, response, time.monotonic() - began)

    def _admit(self, scope: Scope) -> None:
        """Check the number of open requests and the Host header; raises ServiceError."""
        path = scope["path"]
        health = path == "/health" or path.startswith("/health/")
        if self._open > self._service.options.connections and not health:
            raise unavailable("too_many_connections", "too many requests are open", retry_after=1)
        host = Headers(scope=scope).get("host", "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
        any_host = health or (path == "/metrics" and self._service.options.open_metrics)
        if self._hosts and name not in self._hosts and not any_host:
            told = f"; start it with --allowed-host {name[:255]} if it should" if name else ""
            raise HttpError(421, "wrong_host", f"the service does not answer to this Host{told}", "Host")

    def _key(self, scope: Scope) -> ApiKey | None:
        """The request's key. Without a valid one its body is not read, and the route refuses it."""
        with contextlib.suppress(ServiceError):
            return self._service.keys.find(Headers(scope=scope).get("authorization"))
        return None

    async def _read_body(self, scope: Scope, receive: Receive, key: ApiKey) -> bytes:
        """The whole body. Raises ServiceError if it is too large, arrives too slowly, or is one too many of the key's."""
        options = self._service.options
        headers = Headers(scope=scope)
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            raise invalid("Content-Length is not a number", "Content-Length")
        if length == "0" and "transfer-encoding" not in headers:
            return b""
        body = _Body(receive, options.max_body, too_large=int(length) > options.max_body)
        try:
            async with asyncio.timeout(options.body_timeout):
                await self._receive(body, key)
        except TimeoutError:
            if not body.too_large:
                raise HttpError(
                    408, "body_timeout", f"the body took longer than {options.body_timeout:g} seconds"
                ) from None
        except ServiceError:
            if not body.too_large:  # otherwise the same request is refused at any time
                raise
        if body.too_large:
            raise HttpError(413, "body_too_large", f"the body is larger than {options.max_body:,} bytes")
        return bytes(body.content)

    async def _receive(self, body: _Body, key: ApiKey) -> None:
        """Read a body to its end. Raises ServiceError if it is one too many of the key's.

        A body that is slow is a stream of its key; those that arrive at once may be a quarter of all requests. So the half-sent bodies
        of one key leave room for other keys' requests.
        """
        with contextlib.suppress(TimeoutError), key.receiving(max(1, self._service.options.connections // 4)):
            async with asyncio.timeout(_PROMPT):
                await body.read()
                return
        with key.running():
            await body.read()

    def _naming_spans(self, scope: Scope, send: Send) -> Send:
        """``send``, which first names the request's span after its route: at the end of the response the span has ended."""
        tracer = self._service.tracer
        if tracer is None:
            return send

        async def name_and_send(message: Message) -> None:
            route = getattr(scope.get("route"), "path", None)
            if message["type"] == "http.response.start" and route is not None:
                tracer.name_request(scope["method"], route)
            await send(message)

        return name_and_send

    def _record(self, given: Scope, scope: Scope, response: _ResponseSender, seconds: float) -> None:
        """Count the request, and log it without its text. given: as it came; scope: normalised."""
        route = getattr(scope.get("route"), "path", "other")
        self._service.metrics.requests.labels(route, str(response.status)).inc()
        if self._service.options.access_log:
            fields = {
                "user": scope["state"].get("user", "-"),
                "method": given["method"],
                "path": quote(given["path"][:200], safe="/:-._~"),
                "status": response.status,
                "seconds": round(seconds, 6),
            }
            log.info("%s %s %s %d %.3f s", *fields.values(), extra={"fields": fields | {"route": route}})


def _normalised(scope: Scope) -> Scope:
    """A copy of the scope in which HEAD is GET, whose response is then sent without its body, and the path has no final slash."""
    path = scope["path"].rstrip("/") or "/"
    return {**scope, "method": "GET" if scope["method"] == "HEAD" else scope["method"], "path": path}


def _declare_json(scope: Scope) -> None:
    """Take a body for JSON if it is said to be a form, or nothing is said: ``curl -d`` sends no form here.

    Not from a browser, where a page of any site may send forms without asking the service.
    """
    headers = MutableHeaders(scope=scope)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in _FORM and "origin" not in headers and "sec-fetch-site" not in headers:
        headers["content-type"] = "application/json"


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that returns a whole body as one message."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


class _Body:
    """A request's body while it arrives. too_large: it has more than ``most`` bytes, so that its rest is read and discarded."""

    def __init__(self, receive: Receive, most: int, too_large: bool) -> None:
        self._receive = receive
        self._most = most
        self._discarded = 0
        self.content = bytearray()
        self.too_large = too_large

    async def read(self) -> None:
        """Read up to the end. May be cancelled and called again."""
        more = True
        while more and not self.too_large:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            self.content += message.get("body", b"")
            self.too_large = len(self.content) > self._most
            more = message.get("more_body", False)
        if more:
            await self._discard()

    async def _discard(self) -> None:
        """Read and discard the rest: a client that is cut off while it sends does not read the response."""
        with contextlib.suppress(TimeoutError):
            while self._discarded < _DISCARD:
                async with asyncio.timeout(0.3):
                    message = await self._receive()
                if not message.get("more_body"):
                    return
                self._discarded += len(message["body"])


class _ResponseSender:
    """Sends a response with the common headers. ``status``: what was sent; 0 before the response's start."""

    def __init__(self, send: Send, ids: RequestIds, bodiless: bool = False) -> None:
        self._send = send
        self._ids = ids
        self._bodiless = bodiless  # the response to HEAD: complete after its head
        self._ended = False
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers["X-Request-Id"] = self._ids.id
            if self._ids.traceparent:
                headers["traceparent"] = self._ids.traceparent
            if self.status in (408, 413):
                headers["Connection"] = "close"
        if not self._bodiless:
            await self._send(message)
        elif not self._ended:
            await self._send(message if message["type"] == "http.response.start" else {"type": "http.response.body"})
            self._ended = message["type"] != "http.response.start"
