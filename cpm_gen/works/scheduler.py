"""Schedules the texts of works in the engine's batch, and commits what they write.

Each text is a job of its own. Waiting texts are served oldest first; after ``work_turn`` seconds a text makes room for the next one.
A text whose job ends early, because its turn is over, the engine failed or the service ends, is continued later and gets the same
tokens: they depend only on the request and on the tokens written before.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time

from cpm_gen.serving.errors import ServiceError, invalid, unavailable
from cpm_gen.serving.request_ids import begin_work_for
from cpm_gen.serving.service import Service
from cpm_gen.works.database_thread import DatabaseThread
from cpm_gen.works.errors import UnreadableWork, detail, internal
from cpm_gen.works.jobs import job_of
from cpm_gen.works.live import LiveText, LiveWork
from cpm_gen.works.storage.records import WorkChange
from cpm_gen.works.storage.store import Store

log = logging.getLogger("cpm_gen.works")

COMMIT_INTERVAL = 0.5  # seconds
_RETRY_INTERVAL = 2.0  # seconds after the database or the queue refused
_MAX_FAILURES = 3  # of the engine in a row; then the work fails


class WorkScheduler:
    """Writes works. Lives on the event loop; the database has a thread of its own."""

    def __init__(self, service: Service, store: Store, database: DatabaseThread) -> None:
        self._service = service
        self._store = store
        self._database = database
        places = service.options.work_places
        self._places = max(1, service.batch // 2) if places is None else min(places, service.batch)
        self._others = service.batch - self._places  # places that works never take
        self.waiting: dict[LiveText, LiveWork] = {}  # each text at most once
        self._writing: dict[LiveText, asyncio.Task[None]] = {}
        self._taken: dict[LiveText, int] = {}  # places of each text that is being written
        self._dirty: set[LiveWork] = set()
        self._flushing = asyncio.Lock()
        self.persisting = True  # the database accepts commits
        self._open = False
        self.closing = False  # followers are to disconnect
        self.others_wait = 0  # works that no process holds
        self._tasks: list[asyncio.Task[None]] = []

    def check_candidates(self, candidates: int) -> None:
        """Raise ServiceError (invalid) for more candidates than works may take places of the batch."""
        if candidates > self._places:
            raise invalid(
                f"works take at most {self._places} places of the batch here, so a work has at most {self._places} candidates; "
                f"the service's --work-places {candidates} and a --batch above it allow more",
                "candidates",
                "too_many_candidates",
            )

    def open(self) -> None:
        """Start writing."""
        self._open = True
        self._tasks = [asyncio.create_task(self._commit_forever()), asyncio.create_task(self._follow_engine())]
        self._fill_places()

    async def close(self) -> None:
        """Stop writing and commit what was written."""
        self._open = False
        self.waiting.clear()
        self._cancel_jobs()
        await asyncio.gather(*self._writing.values())
        with contextlib.suppress(ServiceError):
            await self.flush()
        for task in self._tasks:
            task.cancel()

    @property
    def writing(self) -> int:
        """Texts that have a place, or are leaving it."""
        return len(self._writing)

    @property
    def has_room(self) -> bool:
        """Whether a place is free and nothing here waits for it."""
        free = not self.waiting and sum(self._taken.values()) < self._places
        return self._can_write and free and not self._preferred()

    @property
    def all_persisted(self) -> bool:
        """Whether the database answers and has all that was written."""
        return self.persisting and not self._dirty

    def queue(self, live: LiveWork) -> None:
        """Queue the unfinished texts of a work."""
        if live.lease is not None:
            for text in live.texts:
                if not text.current.finish_reason and text not in self._writing:
                    self.waiting[text] = live
        self._fill_places()

    def idle(self, live: LiveWork) -> bool:
        """Whether a work has no place, nothing to commit, and is not to be tried again after a failure."""
        busy = live in self._dirty or live.lock.locked()
        return not busy and not any(text in self._writing or text.failures for text in live.texts)

    async def stop(self, live: LiveWork) -> None:
        """Take a work out of the batch. Its state must already say that it is not to be written."""
        writing = [self._writing[text] for text in live.texts if text in self._writing]
        self._end(live)
        for task in writing:
            await task

    def mark_changed(self, live: LiveWork) -> None:
        """Commit a work's state and texts with the next commit, and wake its followers."""
        live.work.updated = time.time()
        self._dirty.add(live)
        live.notify()

    def forget(self, live: LiveWork) -> None:
        """Commit nothing more of a work."""
        self._dirty.discard(live)

    def discard(self, live: LiveWork) -> None:
        """Stop writing a work that was deleted from the database."""
        self.forget(live)
        self._end(live)

    def lose(self, live: LiveWork) -> None:
        """Stop writing a work that another process took, or deleted."""
        log.info("%s: another process took it", live.id)
        self.discard(live)
        live.lease, live.version, live.work.held = None, None, True
        self._service.metrics.leases_lost.inc()

    def pause_unreadable(self, live: LiveWork, error: UnreadableWork) -> None:
        """Pause a queued work that cannot be continued, with the reason."""
        if live.work.state == "queued":
            log.error("%s is paused: %s", live.id, error)
            live.set_state("paused", detail(error.refusal()))
            self.mark_changed(live)
        self._end(live)

    async def flush(self) -> None:
        """Commit all changes; raises ServiceError (unavailable) if that fails. Cancelling the caller does not cancel the commit."""
        await asyncio.shield(asyncio.ensure_future(self._flush()))

    async def _flush(self, retry: bool = False) -> None:
        async with self._flushing:
            # callers that queued behind a failed commit do not wait for another timeout
            if not (self.persisting or retry):
                raise unavailable("storage_failed", "the works' database does not answer")
            dirty, self._dirty = self._dirty, set()
            changes, saved = [], []
            for live in dirty:
                if live.lease is None:
                    continue
                texts = []
                for text in live.texts:
                    if text.current != text.persisted:
                        current, pieces = dataclasses.replace(text.current), list(text.uncommitted)
                        texts.append((current, pieces))
                        saved.append((live.id, text, current, len(pieces)))
                changes.append(WorkChange(live.id, live.work.state, live.work.error, texts, live.lease))
            if not changes:
                return
            leases = {change.id: change.lease for change in changes}
            try:
                left_out = await self._database.run_in_db(self._store.save, changes)
            except ServiceError:
                self._dirty |= {live for live in dirty if not live.deleted}
                self.persisting = False
                self._cancel_jobs()  # generate nothing that cannot be stored
                raise
            for id, text, current, count in saved:
                if id not in left_out:
                    text.committed(current, count)
            for live in dirty:
                # unless this process took it again during the commit
                taken = live.id in left_out and live.lease == leases[live.id]
                if taken and self._store.shared and not live.deleted:
                    self.lose(live)

    async def _commit_forever(self) -> None:
        """Commit at intervals; after a failure, check the database until it answers."""
        while True:
            await asyncio.sleep(COMMIT_INTERVAL if self.persisting else _RETRY_INTERVAL)
            self._fill_places()  # places that a large request has left
            if self._dirty or not self.persisting:
                with contextlib.suppress(ServiceError):
                    if not self.persisting:
                        await self._database.run_in_db(self._store.check)
                    await self._flush(retry=True)
                    self.persisting = True
                    self._fill_places()

    async def _follow_engine(self) -> None:
        """Fill the places whenever the engine's state changes."""
        engine = self._service.engine
        while True:
            await engine.changed.wait()
            self._fill_places()

    def _fill_places(self) -> None:
        """Start writing waiting texts while there are free places."""
        while self.waiting and self._can_write and self._next_fits():
            text = next(iter(self.waiting))
            live = self.waiting.pop(text)
            self._taken[text] = live.candidates
            self._writing[text] = asyncio.create_task(self._write(live, text))
        self._service.metrics.works_writing.set(len(self._writing))
        self._service.metrics.works_waiting.set(len(self.waiting))

    @property
    def _can_write(self) -> bool:
        return self._open and self.persisting and self._service.engine.state == "ready"

    def _preferred(self) -> bool:
        """Whether a request has priority: one with more candidates than works leave places, as long as it waits or runs."""
        return self._service.engine.needs_more_than(self._others)

    def _next_fits(self) -> bool:
        """Whether the text that waits longest has room. One with more candidates than there are places is written alone."""
        if self._preferred():
            return False
        taken = sum(self._taken.values())
        return not taken or taken + next(iter(self.waiting.values())).candidates <= self._places

    async def _write(self, live: LiveWork, text: LiveText) -> None:
        """Write a text until it is finished, its turn is over, or something stops it."""
        delay, yielded = 0.0, False
        begin_work_for(live.request)  # the task began in whichever request made room
        try:
            yielded = await self._run(live, text)
        except ServiceError as error:
            delay = self._job_failed(live, text, error) if live.may_write(text) else 0.0
        except UnreadableWork as error:
            if live.may_write(text):
                self.pause_unreadable(live, error)
        except Exception as error:
            log.error("%s cannot be written", live.id, exc_info=error)
            if live.may_write(text):
                self._fail(live, internal())
        finally:
            text.job = None
            del self._writing[text], self._taken[text]
            if live.may_write(text):
                live.finish_if_complete()
                self.mark_changed(live)
                if live.work.state == "queued" and not text.current.finish_reason and self._open and not yielded:
                    self.waiting[text] = live
            if delay:
                asyncio.get_running_loop().call_later(delay, self._fill_places)
            else:
                self._fill_places()

    async def _run(self, live: LiveWork, text: LiveText) -> bool:
        """Write a text; True if its turn ended because a work waits that no process holds."""
        if text.uncommitted:
            await self.flush()
        pieces = await self._database.run_in_db(self._store.read, live.id, text.current.place)
        job = await asyncio.to_thread(job_of, self._service.require(), live, text, pieces)
        engine = self._service.engine
        if live.work.state != "queued" or not live.may_write(text) or not (self._open and self.persisting):
            return False
        engine.reserve(job.places)
        engine.submit(job)
        text.job = job
        live.waits_since = None
        self.mark_changed(live)
        began = time.monotonic()
        others = False
        try:
            while (chunks := await job.chunks(1.0)) is not None:
                for chunk in chunks:
                    text.add(chunk)
                if chunks:
                    self.mark_changed(live)
                # a sentence that is interrupted would begin again, so a turn ends between two
                between = bool(chunks) or job.places == 1
                wanted = bool(self.waiting or self.others_wait)
                over = wanted and time.monotonic() - began > self._service.options.work_turn
                if between and (over or self._preferred()):
                    others = over and not self.waiting
                    self._cancel(text)
        finally:
            engine.cancel(job)
        return others

    def _job_failed(self, live: LiveWork, text: LiveText, error: ServiceError) -> float:
        """Fail the work, or leave the text queued; returns after how many seconds to try again."""
        if error.kind not in ("rate_limited", "unavailable", "internal") or error.code == "engine_error":
            self._fail(live, error)
        elif error.code == "engine_failed" and self._service.engine.state == "ready":
            text.failures += 1
            if text.failures >= _MAX_FAILURES:
                self._fail(live, error)
        return _RETRY_INTERVAL

    def _fail(self, live: LiveWork, error: ServiceError) -> None:
        if live.work.state == "queued":
            live.set_state("failed", detail(error))
        self._end(live)

    def _end(self, live: LiveWork) -> None:
        for text in live.texts:
            self.waiting.pop(text, None)
            self._cancel(text)

    def _cancel(self, text: LiveText) -> None:
        if text.job is not None:
            self._service.engine.cancel(text.job)
            text.job.finish()  # even if the engine does not answer

    def _cancel_jobs(self) -> None:
        for text in self._writing:
            self._cancel(text)
