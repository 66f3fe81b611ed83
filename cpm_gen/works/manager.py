"""Works as their owners see them: made, looked at, paused, gone on with, followed, deleted."""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import time
import weakref
from collections.abc import AsyncGenerator
from typing import Any

from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.server.routes.generate import generation_spec
from cpm_gen.server.schemas.works import WindowPlace, WorkAnswer, WorkBody, WorkChoice, WorkList, WorkSummary
from cpm_gen.serving.errors import ServiceError, conflict, invalid, not_found, unavailable
from cpm_gen.serving.generation_spec import check_length, seeded
from cpm_gen.serving.service import Service
from cpm_gen.works.events import follow
from cpm_gen.works.live import LiveWork, Position, error_record, event_id, wrong_state
from cpm_gen.works.scheduler import Desk
from cpm_gen.works.storage.records import Text, Work
from cpm_gen.works.storage.store import Store

log = logging.getLogger("cpm_gen.server")

_ID = re.compile("work-[0-9a-f]{16}")
# where a page of works ends: when its last one was made, and its id; that work may be gone by then
_CURSOR = re.compile(rf"([0-9]{{1,12}}\.[0-9]{{1,17}}):({_ID.pattern})")


class Works:
    """All works of a service. Lives on the event loop."""

    def __init__(self, service: Service, store: Store) -> None:
        self._service = service
        self._store = store
        self._desk = Desk(service, store)
        self._live: weakref.WeakValueDictionary[str, LiveWork] = weakref.WeakValueDictionary()
        self._network: str | None = None  # the one that is loaded

    async def open(self) -> None:
        """Go on with what was being written when the last process ended."""
        self._network = _fingerprint(self._service.require())
        for id in await self._desk.ask(self._store.unfinished):
            live = await self._find(id)
            if live is not None and self._check_model(live.work) is None:
                self._desk.queue(live)
        self._desk.open()

    async def close(self) -> None:
        """Stop, and keep what was written; followers are told."""
        self._desk.closing = True
        for live in list(self._live.values()):
            live.notify()
        await self._desk.close()

    async def create(self, body: WorkBody, owner: str) -> LiveWork:
        """A new work, queued; raises ServiceError."""
        service = self._service
        llm = service.require()
        assert self._network is not None
        asked = generation_spec(body, body.max_new_tokens)
        service.check(asked, service.options.max_work_tokens or None)
        prompts = await service.encode(llm, asked)
        window = service.window(llm, asked)
        text = seeded(asked.text)
        parameters = body.model_dump(exclude={"prompt", "metadata"}) | {
            "seed": text.seed,
            "decoder": body.decoder or llm.options.decoder,
            "window": {"hop": window.hop, "boundary": window.boundary, "keep": window.keep},
        }
        now = time.time()
        work = Work(
            id="work-" + secrets.token_hex(8),
            owner=owner,
            model=service.model_id,
            network=self._network,
            state="queued",
            created=now,
            updated=now,
            prompt=body.prompt,
            parameters=parameters,
            metadata=body.metadata,
            texts=[
                Text(
                    place=at * body.n + n,
                    prompt_ids=tuple(ids),
                    sample=n,
                    most=body.max_new_tokens,
                    window_start=window.keep,
                )
                for at, ids in enumerate(prompts)
                for n in range(body.n)
            ],
        )
        most = service.options.max_works
        if not await self._desk.ask(self._store.add, work, most, late=lambda: self._desk.undo(work.id)):
            raise conflict("too_many_works", f"{most:,} works are kept already; delete some")
        if service.options.log_prompts:
            log.info("%s prompts %r", work.id, asked.prompts)
        live = self._live.setdefault(work.id, LiveWork(work))
        service.metrics.prompt_tokens.inc(sum(map(len, prompts)))
        self._desk.queue(live)
        return live

    def follow(self, live: LiveWork, at: list[Position]) -> AsyncGenerator[str, None]:
        """Its events from a position on."""
        return follow(self._desk, live, at, self._service.options.keep_alive)

    def _check_open(self) -> None:
        if self._desk.closing:
            raise unavailable("shutting_down", "the service is shutting down")
        if self._network is None:
            raise unavailable("loading", "the model is being loaded")

    async def find(self, id: str, owner: str) -> LiveWork:
        """Somebody's work; raises ServiceError (not_found) where they have none of that id."""
        self._check_open()
        live = await self._find(id)
        if live is None or live.work.owner != owner or live.deleted:
            raise _no_such_work()
        return live

    async def _find(self, id: str) -> LiveWork | None:
        live = self._live.get(id)
        if live is None and _ID.fullmatch(id):
            work = await self._desk.ask(self._store.get, id)
            if work is None:
                return None
            live = self._live.setdefault(id, LiveWork(work))  # somebody else may have asked, too
            self._check_model(live.work)
        return live

    def _check_model(self, work: Work) -> ServiceError | None:
        """Why the model that is loaded cannot go on with a work, which is noted in it."""
        service = self._service
        if (work.model, work.network) == (service.model_id, self._network):
            return None
        text = f"begun by {work.model}, {work.network}; this service runs {service.model_id}, {self._network}"
        error = conflict("other_model", text)
        if work.state == "queued":
            work.error = error_record(error)
        return error

    async def page(self, owner: str, before: str | None, limit: int) -> WorkList:
        """Somebody's works, newest first, after the page whose ``next`` is ``before``; raises ServiceError where that is none."""
        cursor = None if before is None else _CURSOR.fullmatch(before)
        if before is not None and cursor is None:
            raise invalid("before must be the `next` of a list of works", "before")
        self._check_open()
        await self._desk.flush()
        place = (float(cursor[1]), cursor[2]) if cursor else None
        found = await self._desk.ask(self._store.page, owner, place, limit + 1)
        summaries = []
        for summary in found[:limit]:
            work = summary.work
            live = self._live.get(work.id)
            if live is not None and live.deleted:
                continue
            self._check_model(work)
            summaries.append(
                WorkSummary(**_head(work, live), tokens=summary.tokens, characters=summary.chars, tail=summary.tail)
            )
        last = found[limit - 1].work if len(found) > limit else None
        return WorkList(works=summaries, next=f"{last.created!r}:{last.id}" if last else None)

    async def answer(self, live: LiveWork, token_ids: bool = False) -> WorkAnswer:
        """A work with all its texts, and their tokens where asked for: a million of them make a slow answer."""
        head = _head(live.work, live)  # what is said to be finished is committed below
        await self._desk.flush()
        choices, at = [], []
        for text in live.texts:
            now = text.kept
            pieces = await self._desk.ask(self._store.read, live.id, now.place)
            words = "".join(p.text for p in pieces)
            at.append((pieces[-1].end if pieces else 0, len(words)))
            choices.append(
                WorkChoice(
                    index=now.place,
                    text=words,
                    token_ids=[i for p in pieces for i in p.token_ids] if token_ids else None,
                    finish_reason=now.finish_reason,  # type: ignore[arg-type]
                    window_slides=now.slides,
                    window=WindowPlace(start=now.window_start, text_start=now.text_start),
                )
            )
        written = sum(tokens for tokens, _ in at)
        if live.deleted:  # meanwhile
            raise _no_such_work()
        return WorkAnswer(
            **head,
            parameters=dict(live.work.parameters),
            choices=choices,
            usage=live.usage(written),
            event_id=event_id(at),
        )

    @contextlib.asynccontextmanager
    async def _held(self, live: LiveWork) -> AsyncGenerator[None, None]:
        """While its state is changed; raises ServiceError (not_found) where it was deleted meanwhile."""
        async with live.lock:
            if live.deleted:
                raise _no_such_work()
            yield

    async def pause(self, live: LiveWork) -> None:
        """Stop writing until :meth:`resume`; raises ServiceError (conflict) where there is nothing to stop."""
        async with self._held(live):
            if live.work.state == "queued":
                before = live.work.error
                live.work.state, live.work.error = "paused", None
                await self._desk.stop(live)
                self._desk.changed(live)
                try:
                    await self._desk.flush()
                except ServiceError:
                    if live.work.state == "paused":  # not finished by its last words
                        live.work.state, live.work.error = "queued", before
                        self._desk.changed(live)
                        self._desk.queue(live)
                    raise
            elif live.work.state != "paused":
                raise wrong_state(live, "only one that is queued or running can be paused")
            else:
                await self._desk.flush()

    async def resume(self, live: LiveWork) -> None:
        """Go on with what was paused or failed; raises ServiceError (conflict) where there is nothing to go on with."""
        async with self._held(live):
            if live.work.state == "finished":
                raise wrong_state(live, "continue goes on with it")
            if live.work.state != "queued":
                await self._requeue(live)

    async def extend(self, live: LiveWork, tokens: int | None, as_first: bool) -> None:
        """Go on with a finished work for so many tokens, or as many as the first time; raises ServiceError (conflict, invalid)."""
        async with self._held(live):
            if live.work.state != "finished":
                raise wrong_state(live, "only a finished one can be continued")
            more = live.work.parameters["max_new_tokens"] if as_first else tokens
            longest = max(text.now.tokens for text in live.texts)
            check_length(None if more is None else longest + more, self._service.options.max_work_tokens or None)
            if error := self._check_model(live.work):
                raise error
            ends = [(text, text.now.finish_reason, text.now.most) for text in live.texts]
            for text in live.texts:
                text.now.finish_reason = None
                text.now.most = None if more is None else text.now.tokens + more
            try:
                await self._requeue(live)
            except ServiceError:
                for text, reason, most in ends:
                    text.now.finish_reason, text.now.most = reason, most
                raise

    async def _requeue(self, live: LiveWork) -> None:
        """Write on; where the database does not take that, it is as it was."""
        if error := self._check_model(live.work):
            raise error
        before = live.work.state, live.work.error
        live.work.state, live.work.error = "queued", None
        for text in live.texts:
            text.losses = 0
        self._desk.changed(live)
        try:
            await self._desk.flush()
        except ServiceError:
            live.work.state, live.work.error = before
            self._desk.changed(live)
            raise
        self._desk.queue(live)

    async def delete(self, live: LiveWork) -> None:
        """End it and forget it."""
        async with self._held(live):
            live.deleted = True
            await self._desk.stop(live)
            self._desk.forget(live)
            try:
                await self._desk.ask(self._store.delete, live.id, late=lambda: self._drop(live))
            except ServiceError:  # it is still there, and goes on
                live.deleted = False
                self._desk.changed(live)
                if live.work.state == "queued":
                    self._desk.queue(live)
                raise
            live.notify()

    def _drop(self, live: LiveWork) -> None:
        """It is gone from the database, though nobody waits for that any more."""
        live.deleted = True
        self._desk.drop(live)
        live.notify()


def _no_such_work() -> ServiceError:
    return not_found("there is no such work")


def _head(work: Work, live: LiveWork | None) -> dict[str, Any]:
    """What every answer tells of a work; ``live`` knows better how it stands."""
    state, error = (live.state, live.work.error) if live else (work.state, work.error)
    kept = {name: getattr(work, name) for name in ("id", "model", "created", "updated", "prompt", "metadata")}
    return kept | {"state": state, "error": error}


def _fingerprint(llm: TextEngine) -> str:
    """What must be the same for a work to go on as it began."""
    size, options = llm.size, llm.options
    shape = f"{size.layers}x{size.hidden}x{size.heads}"
    precision: str = options.dtype if options.quantize == "none" else options.quantize
    if options.kv_cache != "auto":
        precision += f", keys and values in {options.kv_cache}"
    window = f"window {llm.window.limit}"
    return (
        f"{shape}, {size.positions} positions, {size.vocabulary} tokens, {precision}, {window}, weights {llm.digest()}"
    )
