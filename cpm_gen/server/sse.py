"""Server-sent events, and the detection of a client disconnect.

``fastapi.sse`` is not used: its response class is fixed for a route, while ``/generate`` answers with JSON or with events; its keep-alive
interval is fixed; and a generation must be cancelled at the client's disconnect, also while no event is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from cpm_gen.server.errors import ClientDisconnected

KEEP_ALIVE = ": keep-alive\n\n"
EVENT = {  # schema of one event, for the OpenAPI document
    "type": "object",
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}
T = TypeVar("T")


def event(name: str | None, data: Any, id: str | None = None) -> str:
    """One server-sent event. A string is sent as it is and must be one line; other data is sent as JSON, which is one line."""
    head = (f"id: {id}\n" if id is not None else "") + (f"event: {name}\n" if name else "")
    body = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"{head}data: {body}\n\n"


async def disconnected(receive: Receive) -> None:
    """Return when the client has disconnected."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of ``work``. Cancels it and raises ClientDisconnected if the client disconnects before."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(disconnected(request.receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnected
    finally:
        await _cancel(task, watch)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(BaseException):
            await task


class EventStream(Response):
    """A response of server-sent events from ``pieces``, until their end or a client disconnect.

    ``close`` is called at the end in any case. :mod:`uvicorn_protocol` aborts the connection of a client that does not read.
    """

    media_type = "text/event-stream"

    def __init__(self, pieces: AsyncGenerator[str, None], close: Callable[[], None]) -> None:
        self._pieces = pieces
        self._close = close
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        sending = asyncio.ensure_future(self._send(send))
        watch = asyncio.ensure_future(disconnected(receive))
        try:
            await asyncio.wait((sending, watch), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            self._close()
            await _cancel(sending, watch)
            await self._pieces.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
