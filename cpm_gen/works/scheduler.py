"""Writes works: gives their texts places in the engine's batch, takes what they write, and commits it.

A text is a job of its own. Of those that wait the oldest goes first; after ``work_turn`` seconds it lets the next one go. A text
whose job ends before it does - its turn is over, the engine failed, the service ends - goes on later as if nothing had happened:
what it says depends on the request and the tokens written alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy.exc import SQLAlchemyError

from cpm_gen.errors import ConfigError
from cpm_gen.server.routes.generate import generation_spec
from cpm_gen.server.schemas.works import WorkBody
from cpm_gen.serving.errors import ServiceError, unavailable
from cpm_gen.serving.job import Job
from cpm_gen.serving.service import Service
from cpm_gen.works.live import LiveText, LiveWork, Position, error_record
from cpm_gen.works.storage.records import Piece
from cpm_gen.works.storage.store import Store

log = logging.getLogger("cpm_gen.server")

_READ = 64  # pieces at a time
_COMMIT = 0.5  # seconds between commits
_ANSWER = 30.0  # seconds that the database may take to answer
_RETRY = 2.0  # seconds between attempts after the database or the queue refused
_LOSSES = 3  # in a row, then the work is held to be at fault
T = TypeVar("T")


class Desk:
    """Lives on the event loop; the database on a thread of its own."""

    def __init__(self, service: Service, store: Store) -> None:
        self._service = service
        self._store = store
        self._thread = ThreadPoolExecutor(1, "cpm-gen works")
        places = service.options.work_places
        self._places = max(1, service.batch // 2) if places is None else min(places, service.batch)
        self._waiting: dict[LiveText, LiveWork] = {}  # a text waits once, whoever asks for it
        self._writing: dict[LiveText, asyncio.Task[None]] = {}
        self._dirty: set[LiveWork] = set()
        self._flushing = asyncio.Lock()
        self._keeps = True  # the database takes what is written
        self._open = False
        self._closed = False  # the database is let go of
        self.closing = False  # followers are told to leave
        self._tasks: list[asyncio.Task[None]] = []

    async def ask(self, call: Callable[..., T], *arguments: object, late: Callable[[], None] | None = None) -> T:
        """The answer of one of the store's methods; raises ServiceError (unavailable) where the database fails, or takes too long.

        late: called where it was done all the same, after it was said that it was not.
        """
        if self._closed:
            raise unavailable("shutting_down", "the service is shutting down")
        loop = asyncio.get_running_loop()
        asked = self._thread.submit(call, *arguments)
        try:
            async with asyncio.timeout(_ANSWER):
                return await asyncio.wrap_future(asked)
        except (SQLAlchemyError, ConfigError, TimeoutError) as error:
            if late is not None and isinstance(error, TimeoutError) and not asked.cancelled():
                asked.add_done_callback(lambda done: done.exception() or loop.call_soon_threadsafe(late))
            said = str(getattr(error, "orig", error)).splitlines() or [f"no answer within {_ANSWER:g} seconds"]
            log.error("the database failed: %s", said[0])
            raise unavailable("storage_failed", "the works' database does not answer") from None

    def drop(self, live: LiveWork) -> None:
        """End the writing of a work that is gone from the database."""
        self.forget(live)
        self._end(live)

    def undo(self, id: str) -> None:
        """Delete a work that nobody was told of."""
        if not self._closed:
            self._thread.submit(self._store.delete, id)

    def open(self) -> None:
        """Begin to write."""
        self._open = True
        self._tasks = [asyncio.create_task(self._commit()), asyncio.create_task(self._follow_engine())]
        self._pump()

    async def close(self) -> None:
        """Stop writing, keep what was written, and let go of the database."""
        self._open = False
        self._waiting.clear()
        self._cancel_jobs()
        await asyncio.gather(*self._writing.values())
        with contextlib.suppress(ServiceError):
            await self.flush()
        for task in self._tasks:
            task.cancel()
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._store.close)
        self._thread.shutdown()

    def queue(self, live: LiveWork) -> None:
        """Write on what is not finished of a work."""
        for text in live.texts:
            if not text.now.finish_reason and text not in self._writing:
                self._waiting[text] = live
        self._pump()

    async def stop(self, live: LiveWork) -> None:
        """End the writing of a work; its state must say already that it is not to be written on."""
        writing = [self._writing[text] for text in live.texts if text in self._writing]
        self._end(live)
        for task in writing:
            await task

    def changed(self, live: LiveWork) -> None:
        """Something about a work is to be kept."""
        live.work.updated = time.time()
        self._dirty.add(live)
        live.notify()

    def forget(self, live: LiveWork) -> None:
        """Keep nothing more of a work."""
        self._dirty.discard(live)

    async def after(self, live: LiveWork, text: LiveText, at: Position) -> list[Piece]:
        """Some of what a text says after a position; nothing at its end."""
        token, char = at
        if token < text.kept.tokens:
            pieces = await self.ask(self._store.read, live.id, text.now.place, token, _READ)
        else:
            pieces = list(text.tail)
        pieces = [piece for piece in pieces if piece.end > token]
        if pieces and pieces[0].token < token:
            pieces[0] = pieces[0].after(token, char)
        return pieces

    async def flush(self) -> None:
        """Commit what is not in the database yet; raises ServiceError (unavailable) where that fails. Cannot be cancelled halfway."""
        await asyncio.shield(asyncio.ensure_future(self._flush()))

    async def _flush(self, again: bool = False) -> None:
        async with self._flushing:
            if not (self._keeps or again):  # who waited while it failed does not wait for the next attempt, too
                raise unavailable("storage_failed", "the works' database does not answer")
            dirty, self._dirty = self._dirty, set()
            changes, saved = [], []
            for live in dirty:
                texts = []
                for text in live.texts:
                    if text.now != text.kept:
                        now, tail = dataclasses.replace(text.now), list(text.tail)
                        texts.append((now, tail))
                        saved.append((text, now, len(tail)))
                changes.append((live.id, live.work.state, live.work.error, texts))
            if not changes:
                return
            try:
                await self.ask(self._store.save, changes)
            except ServiceError:
                self._dirty |= {live for live in dirty if not live.deleted}
                self._keeps = False
                self._cancel_jobs()  # what cannot be kept is not written
                raise
            for text, now, count in saved:
                text.saved(now, count)

    async def _commit(self) -> None:
        """For ever: commit twice a second."""
        while True:
            await asyncio.sleep(_COMMIT if self._keeps else _RETRY)
            if self._dirty or not self._keeps:
                with contextlib.suppress(ServiceError):
                    if not self._keeps:
                        await self.ask(self._store.check)
                    await self._flush(again=True)
                    self._keeps = True
                    self._pump()

    async def _follow_engine(self) -> None:
        """For ever: go on when the engine does."""
        engine = self._service.engine
        while True:
            await engine.changed.wait()
            self._pump()

    def _pump(self) -> None:
        """Give free places to texts that wait."""
        while (
            self._open
            and self._keeps
            and self._waiting
            and len(self._writing) < self._places
            and self._service.engine.state == "ready"
        ):
            text = next(iter(self._waiting))
            live = self._waiting.pop(text)
            self._writing[text] = asyncio.create_task(self._write(live, text))
        self._service.metrics.works_writing.set(len(self._writing))
        self._service.metrics.works_waiting.set(len(self._waiting))

    async def _write(self, live: LiveWork, text: LiveText) -> None:
        """Write a text until it is finished, its turn is over, or something stops it."""
        patience = 0.0
        try:
            await self._run(live, text)
        except ServiceError as error:
            patience = self._lost(live, text, error)
        except Exception as error:
            log.error("%s cannot be written", live.id, exc_info=error)
            self._fail(live, ServiceError("internal", "something broke; the service's log says what"))
        finally:
            text.job = None
            live.settle()
            self.changed(live)
            del self._writing[text]
            if live.work.state == "queued" and not text.now.finish_reason and not live.deleted and self._open:
                self._waiting[text] = live
            if patience:
                asyncio.get_running_loop().call_later(patience, self._pump)
            else:
                self._pump()

    async def _run(self, live: LiveWork, text: LiveText) -> None:
        if text.tail:
            await self.flush()
        job = await asyncio.to_thread(self._job, live, text, await self._written(live, text))
        engine = self._service.engine
        if live.work.state != "queued" or live.deleted or not (self._open and self._keeps):
            return
        engine.reserve(1)
        engine.submit(job)
        text.job = job
        self.changed(live)
        began = time.monotonic()
        try:
            while (chunks := await job.chunks(1.0)) is not None:
                for chunk in chunks:
                    text.take(chunk)
                if chunks:
                    self.changed(live)
                if self._waiting and time.monotonic() - began > self._service.options.work_turn:
                    self._cancel(text)
        finally:
            engine.cancel(job)

    async def _written(self, live: LiveWork, text: LiveText) -> array[int]:
        written = array("q")
        for piece in await self.ask(self._store.read, live.id, text.now.place):
            written.extend(piece.token_ids)
        return written

    def _job(self, live: LiveWork, text: LiveText, written: array[int]) -> Job:
        """What is left to write of a text."""
        service, now = self._service, text.now
        llm = service.require()
        body = WorkBody.model_validate({**live.work.parameters, "prompt": live.work.prompt})
        asked = generation_spec(body, now.most)
        window = service.window(llm, asked)
        recompute = asked.decoder == "recompute"
        requests = llm.requests([now.prompt_ids], asked.sampling, asked.text, window=window, recompute=recompute)
        request = dataclasses.replace(requests[now.sample], written=written)
        options = dataclasses.replace(asked.text, n=1)
        return Job(f"{live.id}.{now.place}", [request], options, shown=now.chars)

    def _lost(self, live: LiveWork, text: LiveText, error: ServiceError) -> float:
        """What to do about a text that was not finished; returns after how many seconds to look for work again."""
        if error.kind not in ("rate_limited", "unavailable", "internal") or error.code == "engine_error":
            self._fail(live, error)
        elif error.code == "engine_failed" and self._service.engine.state == "ready":
            text.losses += 1
            if text.losses >= _LOSSES:
                self._fail(live, error)
        return _RETRY

    def _fail(self, live: LiveWork, error: ServiceError) -> None:
        if live.work.state == "queued":
            live.work.state, live.work.error = "failed", error_record(error)
        self._end(live)

    def _end(self, live: LiveWork) -> None:
        for text in live.texts:
            self._waiting.pop(text, None)
            self._cancel(text)

    def _cancel(self, text: LiveText) -> None:
        if text.job is not None:
            self._service.engine.cancel(text.job)
            text.job.finish()  # whether the engine listens or not

    def _cancel_jobs(self) -> None:
        for text in self._writing:
            self._cancel(text)
