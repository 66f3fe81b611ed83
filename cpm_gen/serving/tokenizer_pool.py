"""Tokenizes texts in child processes.

jieba is pure Python: it holds the interpreter for a quarter of a second for a text of 100,000 characters, and for minutes for a text
made for that purpose. In a child process it delays neither the event loop nor the engine, and a child that takes too long is killed.
Short texts have a child of their own, so they do not wait for long ones.

Protocol: a child sends one byte when it is ready. Then each message is four bytes of length and a body. A request's body is one byte
for the style, then the text. A response's body is 0 and the ids as 32-bit integers, or 1 and an error message.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
from array import array
from pathlib import Path
from typing import BinaryIO

from cpm_gen.config.options import ModelOptions, StyleName
from cpm_gen.errors import InputError, TokenizerError
from cpm_gen.serving.errors import ServiceError, from_library, invalid, rate_limited
from cpm_gen.text.find_tokenizer import find_tokenizer
from cpm_gen.text.prompt_styles import encode_prompt

_START = "import sys; sys.path.append(sys.argv[1]); from cpm_gen.serving.tokenizer_pool import main; main()"
_STYLES: tuple[StyleName | None, ...] = (None, "plain", "novel", "lyric")
# the settings of a model that its tokenizer and prompts depend on
_SETTINGS = ("model", "tokenizer", "start_token", "end_token", "lyric_lines", "special_pieces")
_SHORT = 4_000  # characters
_STARTING = 120.0  # seconds for a child to load its dictionary


class TokenizerPool:
    """Two child processes, one for short texts and one for long ones. Each starts when first needed, and again after a kill."""

    def __init__(self, timeout: float, queue: int) -> None:
        """``timeout``: most seconds for a text. ``queue``: most texts that wait for each child."""
        self._timeout = timeout
        self._queue = queue
        self._children: tuple[_Child, _Child] | None = None

    async def start(self, model: ModelOptions) -> None:
        """Use the model's tokenizer. The child for short texts is ready on return."""
        given = json.dumps({name: getattr(model, name) for name in _SETTINGS})
        self._children = _Child(given, self._timeout, self._queue), _Child(given, self._timeout, self._queue)
        await self.encode("", None, "")

    async def encode(self, text: str, style: StyleName | None, field: str) -> list[int]:
        """Token ids of a text in a prompt style. Style None encodes the bare text, which may be empty.

        Raises ServiceError with ``field`` for a text that cannot be encoded or takes too long.
        """
        assert self._children is not None
        try:
            return await self._children[len(text) > _SHORT].encode(text, style)
        except InputError as error:
            raise from_library(error, field) from None
        except TimeoutError:
            message = f"the text takes longer than {self._timeout:g} seconds to become tokens"
            raise invalid(message, field, "prompt_too_slow") from None

    def close(self) -> None:
        """Kill the children."""
        for child in self._children or ():
            child.kill()

    async def closed(self) -> None:
        """Wait until the killed children have ended. The event loop must not close before."""
        for child in self._children or ():
            await child.gone()


def _failed() -> ServiceError:
    return ServiceError("tokenizer_failed", "the tokenizer ended; try again")


class _Child:
    def __init__(self, settings: str, timeout: float, queue: int) -> None:
        self._settings = settings
        self._timeout = timeout
        self._queue = queue
        self._lock = asyncio.Lock()
        self._waiting = 0
        self._process: asyncio.subprocess.Process | None = None
        self._killed: asyncio.subprocess.Process | None = None  # the newest killed process

    async def encode(self, text: str, style: StyleName | None) -> list[int]:
        """Raises InputError, TimeoutError or ServiceError. A caller cancelled before its turn causes no work."""
        if self._waiting >= self._queue:
            raise rate_limited("queue_full", "too many texts wait to become tokens; try again later", retry_after=2)
        self._waiting += 1
        try:
            await self._lock.acquire()
        finally:
            self._waiting -= 1
        # a task of its own reads the response also if the caller is cancelled; otherwise the next caller would get it
        task = asyncio.create_task(self._request(text, style))
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[list[int]]) -> None:
        self._lock.release()
        if not task.cancelled():
            task.exception()  # mark it as retrieved

    async def _request(self, text: str, style: StyleName | None) -> list[int]:
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
                response = await process.stdout.readexactly(length)
        except TimeoutError:
            self.kill()
            raise
        except (asyncio.IncompleteReadError, ConnectionError):
            self.kill()
            raise _failed() from None
        if response[:1] == b"\1":
            raise InputError(response[1:].decode())
        return array("i", response[1:]).tolist()

    async def _start(self) -> asyncio.subprocess.Process:
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-c", _START, str(Path(__file__).parents[2]), self._settings, str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # the service handles Ctrl-C
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
            # not Process.kill: it polls the child first, after which asyncio warns that its exit status is unknown
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
            self._killed = self._process
        self._process = None

    async def gone(self) -> None:
        if self._killed is not None:
            with contextlib.suppress(RuntimeError):  # another task reads its output
                await self._killed.communicate()
            await self._killed.wait()


def main() -> None:
    """The child process: serve requests until standard input or the parent process ends."""
    threading.Thread(target=_end_with, args=[int(sys.argv[3])], daemon=True).start()
    model = ModelOptions(**json.loads(sys.argv[2]))
    tokenizer = find_tokenizer(model)
    tokenizer.encode("词")  # loads jieba's dictionary
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sink.write(b"+")
    sink.flush()
    while body := _read(source):
        try:
            text, style = body[1:].decode("utf-8", "surrogatepass"), _STYLES[body[0]]
            ids = (
                tokenizer.encode(text)
                if style is None
                else encode_prompt(style, text, tokenizer, model.lyric_lines, special_pieces=model.special_pieces)
            )
            answer = b"\0" + array("i", ids).tobytes()
        except (InputError, TokenizerError) as error:  # of this text
            answer = b"\1" + str(error).encode()
        sink.write(len(answer).to_bytes(4, "big") + answer)
        sink.flush()


def _read(source: BinaryIO) -> bytes:
    head = source.read(4)
    return source.read(int.from_bytes(head, "big")) if len(head) == 4 else b""


def _end_with(parent: int) -> None:
    """End the process when its parent has ended, also in the middle of a text that takes minutes."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
