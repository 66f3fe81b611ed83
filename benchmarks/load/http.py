"""A minimal HTTP/1.1 client for streams, at half the CPU cost of httpx: the generator shares its cores with the server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

_LINE = 2**20  # maximum bytes of a line; a whole event is on one line


class Broken(Exception):
    """The connection ended before the response did, or the response is not HTTP."""


@dataclass
class Reply:
    """A response whose body is still to be read, once."""

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives; raises Broken if it is incomplete."""
        try:
            if self.headers.get("transfer-encoding", "").lower() != "chunked":
                if left := int(self.headers.get("content-length", "0")):
                    yield await self.reader.readexactly(left)
                return
            while size := int(await self.reader.readline(), 16):
                yield (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readline()
        except (OSError, EOFError, ValueError) as error:
            raise Broken(f"{type(error).__name__}: {error}") from None

    async def body(self) -> bytes:
        """The whole body."""
        return b"".join([piece async for piece in self.pieces()])

    async def json(self) -> Any:
        """The whole body as JSON."""
        return json.loads(await self.body())

    async def events(self) -> AsyncIterator[tuple[str, str, str]]:
        """Server-sent events: name, data, id. Comments are skipped."""
        rest = b""
        async for piece in self.pieces():
            *whole, rest = (rest + piece).split(b"\n\n")
            for block in whole:
                fields = dict(line.partition(": ")[::2] for line in block.decode().split("\n"))
                if "data" in fields:
                    yield fields.get("event", "message"), fields["data"], fields.get("id", "")
        if rest:
            raise Broken("the stream ended within an event")


class Server:
    """Address of the service. Every request has its own connection, which is closed afterwards."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.host, self.port = parts.hostname, parts.port or 80
        self.sent = 0  # requests; one that was abandoned while connecting does not count

    @contextlib.asynccontextmanager
    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> AsyncIterator[Reply]:
        """Send a request (``body``: bytes, or a JSON value) and read the head of the response; raises Broken.

        Leaving the block closes the connection.
        """
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if body is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port, limit=_LINE)
        except OSError as error:
            raise Broken(f"{type(error).__name__}: {error}") from None
        try:
            writer.write("\r\n".join([*lines, "", ""]).encode() + content)
            self.sent += 1
            yield await _head(reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def json(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON response of a request that must succeed; raises Broken otherwise."""
        async with self.ask(method, path, body) as reply:
            answer = await reply.body()
            if reply.status >= 300:
                raise Broken(f"{method} {path}: {reply.status} {answer[:300].decode()}")
            return json.loads(answer)


async def _head(reader: asyncio.StreamReader) -> Reply:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().partition(": ")[::2] for line in head[1:-2])
        return Reply(int(head[0].split(" ")[1]), headers, reader)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise Broken(f"{type(error).__name__}: {error}") from None
