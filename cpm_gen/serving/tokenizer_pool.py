"""Texts become tokens in processes of their own.

jieba is pure Python: a text of 100,000 characters holds the interpreter for a quarter of a second, and one made for the purpose
for minutes. In a child it delays neither the event loop nor the engine, and a child that takes too long can be killed.
Short texts have a child of their own, so that a long one does not hold them up.

A child says one byte when it is ready. A message is four bytes of length and a body. To the child: one byte for the style, then the
text. From it: 0 and the ids as 32-bit integers, or 1 and what is wrong with the text.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import BinaryIO

from cpm_gen.config.options import StyleName
from cpm_gen.errors import InputError
from cpm_gen.serving.errors import ServiceError, from_library, invalid, rate_limited
from cpm_gen.text.prompt_styles import encode_prompt
from cpm_gen.text.tokenizer import Tokenizer

_START = "import sys; sys.path.append(sys.argv[1]); from cpm_gen.serving.tokenizer_pool import main; main()"
_STYLES: tuple[StyleName | None, ...] = (None, "plain", "novel", "lyric")
_SHORT = 4_000  # characters
_STARTING = 120.0  # seconds for a child to load its dictionary


class Tokenizing:
    """Two children that encode, started when first needed and again after they were killed."""

    def __init__(self, timeout: float, queue: int) -> None:
        """At most ``timeout`` seconds for a text, and ``queue`` texts that wait for each child."""
        self._timeout = timeout
        self._queue = queue
        self._lanes: tuple[_Child, _Child] | None = None

    async def start(self, path: Path) -> None:
        """Encode with the vocabulary at ``path`` from now on; the child for short texts is ready on return."""
        self._lanes = (_Child(path, self._timeout, self._queue), _Child(path, self._timeout, self._queue))
        await self.encode("", None, "")

    async def encode(self, text: str, style: StyleName | None, field: str) -> list[int]:
        """Token ids as the style reads the text; None: of the bare text, which may be empty.

        Raises ServiceError, which names ``field``, for a text that cannot be encoded or takes too long.
        """
        assert self._lanes is not None
        try:
            return await self._lanes[len(text) > _SHORT].encode(text, style)
        except InputError as error:
            raise from_library(error, field) from None
        except TimeoutError:
            message = f"the text takes longer than {self._timeout:g} seconds to become tokens"
            raise invalid(message, field, "prompt_too_slow") from None

    def close(self) -> None:
        """End the children."""
        for child in self._lanes or ():
            child.kill()

    async def closed(self) -> None:
        """Wait for children that were ended: an event loop must not close before it knows how each of them did."""
        for child in self._lanes or ():
            await child.gone()


def _failed() -> ServiceError:
    return ServiceError("tokenizer_failed", "the tokenizer ended; try again")


class _Child:
    def __init__(self, path: Path, timeout: float, queue: int) -> None:
        self._path = path
        self._timeout = timeout
        self._queue = queue
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._process: asyncio.subprocess.Process | None = None
        self._killed: asyncio.subprocess.Process | None = None  # the last one

    async def encode(self, text: str, style: StyleName | None) -> list[int]:
        """Raises InputError, TimeoutError or ServiceError. Who leaves before their turn leaves nothing to do."""
        if self._waiting >= self._queue:
            raise rate_limited("queue_full", "too many texts wait to become tokens; try again later", retry_after=2)
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        # a task of its own: the answer is read whether or not somebody still waits for it, or the next would get it
        task = asyncio.create_task(self._ask(text, style))
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[list[int]]) -> None:
        self._lock.release()
        if not task.cancelled():
            task.exception()  # seen, whoever left

    async def _ask(self, text: str, style: StyleName | None) -> list[int]:
        process = self._process
        if process is None or process.returncode is not None:
            process = await self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            body = bytes([_STYLES.index(style)]) + text.encode("utf-8", "surrogatepass")
            process.stdin.write(len(body).to_bytes(4, "big") + body)
            async with asyncio.timeout(self._timeout):
                await process.stdin.drain()
                length = int.from_bytes(await process.stdout.readexactly(4), "big")
                answer = await process.stdout.readexactly(length)
        except TimeoutError:
            self.kill()
            raise
        except (asyncio.IncompleteReadError, ConnectionError):
            self.kill()
            raise _failed() from None
        if answer[:1] == b"\1":
            raise InputError(answer[1:].decode())
        return array("i", answer[1:]).tolist()

    async def _start(self) -> asyncio.subprocess.Process:
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", _START, str(Path(__file__).parents[2]), str(self._path), str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the service's to handle
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_STARTING):
                await process.stdout.readexactly(1)
        except (TimeoutError, asyncio.IncompleteReadError):
            self.kill()
            raise _failed() from None
        return process

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            # not Process.kill: it looks first whether the child has ended, and then asyncio warns that nobody told it how
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._killed = self._process
        self._process = None

    async def gone(self) -> None:
        if self._killed is not None:
            with contextlib.suppress(RuntimeError):  # somebody reads its last words
                await self._killed.communicate()
            await self._killed.wait()


def main() -> None:
    """The child: answers until its standard input ends or its parent is gone."""
    threading.Thread(target=_end_with, args=[int(sys.argv[3])], daemon=True).start()
    tokenizer = Tokenizer(sys.argv[2])
    tokenizer.encode("词")  # loads jieba's dictionary
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sink.write(b"+")
    sink.flush()
    while body := _read(source):
        try:
            text, style = body[1:].decode("utf-8", "surrogatepass"), _STYLES[body[0]]
            ids = tokenizer.encode(text) if style is None else encode_prompt(style, text, tokenizer)
            answer = b"\0" + array("i", ids).tobytes()
        except InputError as error:
            answer = b"\1" + str(error).encode()
        sink.write(len(answer).to_bytes(4, "big") + answer)
        sink.flush()


def _read(source: BinaryIO) -> bytes:
    head = source.read(4)
    return source.read(int.from_bytes(head, "big")) if len(head) == 4 else b""


def _end_with(parent: int) -> None:
    """A text may take minutes: whoever asked for it may be dead by then."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
