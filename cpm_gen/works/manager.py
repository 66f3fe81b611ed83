"""Works as their owners use them: create, look at, pause, resume, continue, follow, delete."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from cpm_gen.serving.errors import ServiceError, invalid, unavailable
from cpm_gen.serving.generation_spec import check_length
from cpm_gen.serving.request_ids import current_request
from cpm_gen.serving.service import Service
from cpm_gen.text.stories.requested import ends_itself
from cpm_gen.works.database_thread import DatabaseThread
from cpm_gen.works.errors import UnreadableWork, detail, no_such_work, too_many_works, wrong_state
from cpm_gen.works.events import WorkEvent, follow
from cpm_gen.works.leases import WorkLeases
from cpm_gen.works.live import LiveWork, Position, event_id
from cpm_gen.works.live_works import LiveWorks
from cpm_gen.works.scheduler import WorkScheduler
from cpm_gen.works.spec import WorkSpec
from cpm_gen.works.storage.records import StoredText, StoredWork
from cpm_gen.works.storage.store import Store
from cpm_gen.works.views import TextView, WorkListEntry, WorkPage, WorkView

log = logging.getLogger("cpm_gen.works")

_ID = re.compile("work-[0-9a-f]{16}")
# The end of a page of works: creation time and id of its last work, which may be deleted by then
_CURSOR = re.compile(rf"([0-9]{{1,12}}\.[0-9]{{1,17}}):({_ID.pattern})")


class WorkManager:
    """All works of a service. Lives on the event loop."""

    def __init__(self, service: Service, store: Store) -> None:
        self._service = service
        self._store = store
        self.database = DatabaseThread(store)
        self.scheduler = WorkScheduler(service, store, self.database)
        self._works = LiveWorks(service, store, self.database, self.scheduler)
        self._leases = WorkLeases(service, store, self.database, self.scheduler, self._works)

    async def open(self) -> None:
        """Queue the works that were unfinished when the last process ended. Works that cannot be read are paused.

        Works of a shared database are queued as this process takes their leases.
        """
        self._works.model_loaded()
        if not self._store.shared:
            for id in await self.database.run_in_db(self._store.unfinished):
                live = await self._works.find(id)
                if live is not None and live.work.state == "queued" and self._works.check_model(live.work) is None:
                    self.scheduler.queue(live)
        self.scheduler.open()
        self._leases.open()

    async def close(self) -> None:
        """Stop, commit what was written and close the database; followers are told."""
        self.scheduler.closing = True
        self._works.notify()
        await self.scheduler.close()
        await self._leases.close()
        await self.database.close()

    async def create(
        self, spec: WorkSpec, prompt: str | list[str], metadata: Mapping[str, str], owner: str
    ) -> LiveWork:
        """Create a work and queue it; raises ServiceError."""
        service = self._service
        llm = service.require()
        assert self._works.network is not None
        generation = spec.generation(prompt)
        service.check(generation, service.options.max_work_tokens or None)
        self.scheduler.check_candidates(spec.candidates)
        prompts = await service.encode(llm, generation)
        await service.fit(llm, generation, prompts, form=True)
        now = time.time()
        work = StoredWork(
            id="work-" + secrets.token_hex(8),
            owner=owner,
            model=service.model_id,
            network=self._works.network,
            state="queued",
            created=now,
            updated=now,
            prompt=prompt,
            parameters=spec.write(),
            metadata=metadata,
            texts=[
                StoredText(
                    place=index * spec.n + sample,
                    prompt_ids=tuple(ids),
                    sample=sample,
                    max_tokens=spec.max_new_tokens,
                    window_start=spec.window.keep,
                )
                for index, ids in enumerate(prompts)
                for sample in range(spec.n)
            ],
        )
        limit, lease = service.options.max_works, self._leases.for_new()
        # a work whose creation timed out before the client got its id is deleted
        late = lambda: self.database.submit(self._store.delete, work.id)  # noqa: E731
        if not await self.database.run_in_db(self._store.add, work, limit, lease, late=late):
            raise too_many_works(limit)
        if service.options.log_prompts:
            log.info("%s prompts %r", work.id, generation.prompts)
        log.debug("%s: %d texts after %d prompt tokens", work.id, len(work.texts), sum(map(len, prompts)))
        live = self._leases.add(work, lease)
        live.request = current_request()
        service.metrics.prompt_tokens.inc(sum(map(len, prompts)))
        self.scheduler.queue(live)
        return live

    def follow(self, live: LiveWork, at: list[Position]) -> AsyncGenerator[WorkEvent, None]:
        """The events of a work from a position on."""
        return follow(self.scheduler, self._store, self.database, live, at, self._service.options.keep_alive)

    def _check_open(self) -> None:
        if self.scheduler.closing:
            raise unavailable("shutting_down", "the service is shutting down")
        if self._works.network is None:
            raise unavailable("loading", "the model is being loaded")

    async def find(self, id: str, owner: str) -> LiveWork:
        """An owner's work; raises ServiceError (not_found) if they have none of that id."""
        self._check_open()
        live = await self._works.find(id)
        if live is None or live.work.owner != owner or live.deleted:
            raise no_such_work()
        return live

    async def page(self, owner: str, before: str | None, limit: int) -> WorkPage:
        """An owner's works, newest first, after the page whose ``next`` is ``before``; raises ServiceError (invalid)."""
        cursor = None if before is None else _CURSOR.fullmatch(before)
        if before is not None and cursor is None:
            raise invalid("before must be the `next` of a list of works", "before")
        self._check_open()
        await self.scheduler.flush()
        start = (float(cursor[1]), cursor[2]) if cursor else None
        found = await self.database.run_in_db(self._store.page, owner, start, limit + 1)
        entries = []
        for summary in found[:limit]:
            work = summary.work
            live = self._works.loaded(work.id)
            if live is not None and live.deleted:
                continue
            if live is not None and live.lease is None:  # the database is newer
                live = None
            if work.damage is None:
                self._works.check_model(work)
            elif work.error is None:
                work.error = detail(UnreadableWork(work.damage.message, work.damage.field).refusal())
            head = _head(work, live)
            entries.append(WorkListEntry(**head, tokens=summary.tokens, characters=summary.chars, tail=summary.tail))
        last = found[limit - 1].work if len(found) > limit else None
        return WorkPage(works=entries, next=f"{last.created!r}:{last.id}" if last else None)

    async def view(self, live: LiveWork, token_ids: bool = False) -> WorkView:
        """A work with all its texts, and with their tokens on request: a million of them make a slow answer."""
        head = _head(live.work, live)  # read first: a state of finished is committed by the flush
        await self.scheduler.flush()
        texts, at = [], []
        for text in live.texts:
            persisted = text.persisted
            pieces = await self.database.run_in_db(self._store.read, live.id, persisted.place)
            words = "".join(p.text for p in pieces)
            at.append((pieces[-1].end if pieces else 0, len(words)))
            texts.append(
                TextView(
                    index=persisted.place,
                    text=words,
                    token_ids=[i for p in pieces for i in p.token_ids] if token_ids else None,
                    finish_reason=persisted.finish_reason,
                    window_slides=persisted.slides,
                    window_start=persisted.window_start,
                    text_start=persisted.text_start,
                    story=text.story,
                )
            )
        if live.deleted:
            raise no_such_work()
        return WorkView(
            **head,
            spec=live.spec,
            parameters=live.work.parameters,
            texts=texts,
            usage=live.usage(sum(tokens for tokens, _ in at)),
            event_id=event_id(at),
        )

    @contextlib.asynccontextmanager
    async def _locked(self, live: LiveWork) -> AsyncGenerator[None, None]:
        """Hold the lock of a work's state; raises ServiceError (not_found) if the work was deleted before."""
        async with live.lock:
            if live.deleted:
                raise no_such_work()
            yield

    async def pause(self, live: LiveWork) -> None:
        """Stop writing until :meth:`resume`; raises ServiceError (wrong_state) for a finished or failed work."""
        async with self._locked(live):
            if live.work.state == "queued":
                await self._leases.acquire(live)
            if live.work.state == "queued":
                before = live.work.error
                live.set_state("paused")
                await self.scheduler.stop(live)
                self.scheduler.mark_changed(live)
                try:
                    await self.scheduler.flush()
                except ServiceError:
                    if live.state == "paused":  # it may have finished with its last tokens
                        live.set_state("queued", before)
                        self.scheduler.mark_changed(live)
                        self.scheduler.queue(live)
                    raise
            elif live.work.state != "paused":
                raise wrong_state(live.state, "only one that is queued or running can be paused")
            else:
                await self.scheduler.flush()

    async def resume(self, live: LiveWork) -> None:
        """Queue a paused or failed work; raises ServiceError for a finished or unreadable one."""
        async with self._locked(live):
            if live.work.state not in ("queued", "finished"):
                await self._leases.acquire(live)
            if live.work.state == "finished":
                raise wrong_state(live.state, "continue goes on with it")
            if live.work.state != "queued":
                await self._requeue(live)

    async def extend(self, live: LiveWork, tokens: int | None, as_first: bool) -> None:
        """Queue a finished work for ``tokens`` more tokens of each text, or as many as the first time; raises ServiceError."""
        async with self._locked(live):
            if live.work.state != "finished":
                raise wrong_state(live.state, "only a finished one can be continued")
            await self._leases.acquire(live)
            if live.work.state != "finished":
                raise wrong_state(live.state, "another request continued it")
            spec = await self._works.readable(live)
            if ends_itself(spec.form, spec.story):
                raise wrong_state(live.state, "a text in a form or with an outline is complete")
            more = spec.max_new_tokens if as_first else tokens
            longest = max(text.current.tokens for text in live.texts)
            check_length(None if more is None else longest + more, self._service.options.max_work_tokens or None)
            if error := self._works.check_model(live.work):
                raise error
            ends = [(text, text.current.finish_reason, text.current.max_tokens) for text in live.texts]
            for text in live.texts:
                text.current.finish_reason = None
                text.current.max_tokens = None if more is None else text.current.tokens + more
            try:
                await self._requeue(live)
            except ServiceError:
                for text, reason, max_tokens in ends:
                    text.current.finish_reason, text.current.max_tokens = reason, max_tokens
                raise

    async def _requeue(self, live: LiveWork) -> None:
        """Queue a work; restore its state if the commit fails."""
        await self._works.readable(live)
        if error := self._works.check_model(live.work):
            raise error
        before = live.work.state, live.work.error
        live.set_state("queued")
        for text in live.texts:
            text.failures = 0
        self.scheduler.mark_changed(live)
        try:
            await self.scheduler.flush()
        except ServiceError:
            live.set_state(*before)
            self.scheduler.mark_changed(live)
            raise
        self.scheduler.queue(live)

    async def delete(self, live: LiveWork) -> None:
        """Stop and delete a work; if the database fails, it is still there and continues."""
        async with self._locked(live):
            live.deleted = True
            await self.scheduler.stop(live)
            self.scheduler.forget(live)
            try:
                await self.database.run_in_db(self._store.delete, live.id, late=lambda: self._deleted_late(live))
            except ServiceError:
                live.deleted = False
                self.scheduler.mark_changed(live)
                if live.work.state == "queued":
                    self.scheduler.queue(live)
                raise
            live.notify()

    def _deleted_late(self, live: LiveWork) -> None:
        """The database deleted the work after its timeout was reported."""
        live.deleted = True
        self.scheduler.discard(live)
        live.notify()


def _head(work: StoredWork, live: LiveWork | None) -> dict[str, Any]:
    """The fields of :class:`~cpm_gen.works.views.WorkHead`; state and error of a live work are newer than the stored ones."""
    state, error = (live.state, live.work.error) if live else (work.state, work.error)
    if live is None and state == "queued" and work.held:
        state = "running"
    head = {name: getattr(work, name) for name in ("id", "model", "created", "updated", "prompt", "metadata")}
    return head | {"state": state, "error": error}
