"""The works that are in memory, each once: read from the database on demand, kept while someone uses them."""

from __future__ import annotations

import re
import weakref

from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.service import Service
from cpm_gen.works.database_thread import DatabaseThread
from cpm_gen.works.errors import UnreadableWork, detail, other_model
from cpm_gen.works.live import LiveWork
from cpm_gen.works.scheduler import WorkScheduler
from cpm_gen.works.spec import WorkSpec
from cpm_gen.works.storage.records import OWNED, Lease, StoredWork
from cpm_gen.works.storage.store import Store

_ID = re.compile("work-[0-9a-f]{16}")


class LiveWorks:
    """Live works by id. ``network``: fingerprint of the loaded model, None before it is loaded."""

    def __init__(self, service: Service, store: Store, database: DatabaseThread, scheduler: WorkScheduler) -> None:
        self._service = service
        self._store = store
        self._database = database
        self._scheduler = scheduler
        self._live: weakref.WeakValueDictionary[str, LiveWork] = weakref.WeakValueDictionary()
        self.network: str | None = None

    def model_loaded(self) -> None:
        """Remember which network is loaded."""
        self.network = _fingerprint(self._service.require())

    def add(self, work: StoredWork, lease: Lease | None) -> LiveWork:
        """A work that is not in memory."""
        return self._live.setdefault(work.id, LiveWork(work, lease))

    def read_only(self) -> list[LiveWork]:
        """Works in memory that this process does not write."""
        return [live for live in list(self._live.values()) if live.lease is None and not live.deleted]

    def loaded(self, id: str) -> LiveWork | None:
        """The work if it is in memory."""
        return self._live.get(id)

    def notify(self) -> None:
        """Wake all followers."""
        for live in list(self._live.values()):
            live.notify()

    async def find(self, id: str) -> LiveWork | None:
        """The work, read from the database if it is not in memory; one that cannot be read is paused."""
        live = self._live.get(id)
        if live is None and _ID.fullmatch(id):
            work = await self._database.run_in_db(self._store.get, id)
            if work is None:
                return None
            # another request may have read it at the same time
            live = self.add(work, None if self._store.shared else OWNED)
            self.check(live)
        elif live is not None and not await self.refresh(live):
            return None
        return live

    async def refresh(self, live: LiveWork) -> bool:
        """Read a work again that this process does not write; False where it was deleted."""
        if live.lease is None and not live.deleted:
            work = await self._database.run_in_db(self._store.get, live.id)
            if live.lease is None:  # nor was it taken while it was read
                if work is None:
                    live.deleted = True
                else:
                    live.load(work)
                    self.check(live)
                live.notify()
        return not live.deleted

    def check(self, live: LiveWork) -> None:
        """Pause a work that cannot be read; show why another one waits."""
        if live.problem is not None:
            self._mark_unreadable(live, live.problem)
        else:
            self.check_model(live.work)

    def _mark_unreadable(self, live: LiveWork, problem: UnreadableWork) -> None:
        """Pause a queued work that cannot be read, and show the reason in others that have no error of their own."""
        if live.work.state == "queued" and live.lease is not None:
            self._scheduler.pause_unreadable(live, problem)
        elif live.work.state == "paused" or live.work.error is None:
            live.work.error = detail(problem.refusal())

    def check_model(self, work: StoredWork) -> ServiceError | None:
        """Why the loaded model cannot continue a work; a queued work shows it as its error."""
        service = self._service
        if (work.model, work.network) == (service.model_id, self.network):
            return None
        error = other_model(
            f"begun by {work.model}, {work.network}; this service runs {service.model_id}, {self.network}"
        )
        if work.state == "queued" and not work.held:
            work.error = detail(error)
        return error

    async def readable(self, live: LiveWork) -> WorkSpec:
        """The spec of a work, read again if it could not be read before; raises ServiceError (unreadable_work)."""
        if live.spec is None:
            state, error = live.work.state, live.work.error
            work = await self._database.run_in_db(self._store.get, live.id)
            if work is not None:
                live.load(work)
                live.set_state(state, error)
        if live.spec is None:
            problem = live.problem or UnreadableWork("the work cannot be read")
            self._mark_unreadable(live, problem)
            raise problem.refusal()
        return live.spec


def _fingerprint(llm: TextEngine) -> str:
    """The properties of the model that must be the same to continue a work."""
    size, options = llm.size, llm.options
    shape = f"{size.layers}x{size.hidden}x{size.heads}"
    precision: str = options.dtype if options.quantize == "none" else options.quantize
    if options.kv_cache != "auto":
        precision += f", keys and values in {options.kv_cache}"
    window = f"window {llm.window.limit}"
    shape += "".join(f", {name} {value}" for name, value in llm.variant.differences().items())
    return (
        f"{shape}, {size.positions} positions, {size.vocabulary} tokens, {precision}, {window}, weights {llm.digest()}"
    )
