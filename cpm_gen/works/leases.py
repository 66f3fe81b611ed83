"""Works of a database that several services share.

A work has one holder at a time, the process with its lease. A process takes the works that wait longest while it has room for them,
renews their leases while it writes them, and gives back those that have no place. When a process ends without giving back, its leases
run out, and the next process with room takes its works over and writes the same tokens from where the database ends.

Safety does not depend on time: what a process commits is checked against holder and epoch of the lease, in the same transaction. A
request to change a work takes the lease from its holder, which notices at its next commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import socket
import time

from cpm_gen.serving.errors import ServiceError
from cpm_gen.serving.service import Service
from cpm_gen.works.database_thread import DatabaseThread
from cpm_gen.works.errors import no_such_work
from cpm_gen.works.live import LiveWork
from cpm_gen.works.live_works import LiveWorks
from cpm_gen.works.scheduler import COMMIT_INTERVAL, WorkScheduler
from cpm_gen.works.storage.records import OWNED, Lease, StoredWork
from cpm_gen.works.storage.store import Store

log = logging.getLogger("cpm_gen.works")


class WorkLeases:
    """The leases of this process. Where the database is its own, all works are. Lives on the event loop."""

    def __init__(
        self, service: Service, store: Store, database: DatabaseThread, scheduler: WorkScheduler, works: LiveWorks
    ) -> None:
        self._service = service
        self._store = store
        self._database = database
        self._scheduler = scheduler
        self._works = works
        self._holder = f"{socket.gethostname()[:40]}:{secrets.token_hex(8)}"  # operators see it in the table
        self._held: dict[str, LiveWork] = {}
        service.metrics.works_held.set_function(
            lambda: sum(live.lease is not None for live in list(self._held.values()))
        )
        self._renewed = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to take works."""
        if self._store.shared:
            self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Give all leases back."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(ServiceError):  # what it asked the database for last is done by then
                await self._database.run_in_db(self._store.give_back_all, self._holder)

    def for_new(self) -> Lease | None:
        """The lease of a work that is created here: none if it has to wait for a place anyway."""
        if not self._store.shared:
            return OWNED
        return Lease(self._holder, 1) if self._scheduler.has_room else None

    def add(self, work: StoredWork, lease: Lease | None) -> LiveWork:
        """A work that was created under a lease of :meth:`for_new`."""
        live = self._works.add(work, lease)
        if self._store.shared and lease is not None:
            self._held[live.id] = live
        return live

    async def acquire(self, live: LiveWork) -> None:
        """Take a work from whichever process holds it, to change it here; raises ServiceError (not_found) if it was deleted."""
        if live.lease is None:
            taken = await self._database.run_in_db(self._store.take, live.id, self._holder)
            if taken is None:
                live.deleted = True
                live.notify()
                raise no_such_work()
            self._hold(live, *taken)

    def _hold(self, live: LiveWork, work: StoredWork, lease: Lease, since: float | None = None) -> None:
        self._scheduler.discard(live)  # it may still be written under a lease that ran out
        live.load(work)
        live.lease, live.waits_since = lease, since
        self._held[live.id] = live
        self._works.check(live)
        live.notify()

    async def _keep(self) -> None:
        while True:
            try:
                if self._scheduler.persisting:
                    await self._renew()
                    await self._give_back([live for live in self._held.values() if self._scheduler.idle(live)])
                    await self._claim()
                    await self._refresh()
            except ServiceError:
                pass  # logged; the scheduler finds out when the database answers again
            except Exception as error:
                log.error("the leases of works are not kept", exc_info=error)
            await asyncio.sleep(COMMIT_INTERVAL)

    async def _renew(self) -> None:
        """Renew the leases three times in the time that they last, and stop writing works whose lease is gone."""
        self._held = {id: live for id, live in self._held.items() if live.lease is not None}
        now = time.monotonic()
        if not self._held or now - self._renewed < self._service.options.work_lease / 3:
            return
        before = {live: live.lease for live in self._held.values()}
        epochs = await self._database.run_in_db(self._store.renew, self._holder, list(self._held))
        self._renewed = now
        for live, lease in before.items():
            if lease is not None and live.lease == lease and epochs.get(live.id) != lease.epoch:
                self._scheduler.lose(live)

    async def _give_back(self, ended: list[LiveWork]) -> None:
        leases = []
        for live in ended:
            if live.lease is not None:
                leases.append((live.id, live.lease, live.waits_since))
                self._scheduler.discard(live)
                live.lease, live.version, live.work.held = None, None, False
                del self._held[live.id]
        if leases:
            await self._database.run_in_db(self._store.give_back, leases)

    async def _claim(self) -> None:
        """Take works while there is room; then find out whether others wait, or write on texts that made room for them."""
        model, network = self._service.model_id, self._works.network
        assert network is not None
        while self._scheduler.has_room:
            claimed = await self._database.run_in_db(self._store.claim, self._holder, model, network)
            if claimed is None:
                break
            work, lease, before, since = claimed
            if before is not None:
                log.info("%s: taken over from %s", work.id, before)
                self._service.metrics.works_taken_over.inc()
            live = self._works.add(work, None)
            self._hold(live, work, lease, None if before else since)
            if live.work.state == "queued":
                self._scheduler.queue(live)
        self._scheduler.others_wait = await self._database.run_in_db(self._store.waiting, model, network)
        self._service.metrics.works_unheld.set(self._scheduler.others_wait)
        if not self._scheduler.others_wait:
            for live in self._held.values():
                if live.work.state == "queued":
                    self._scheduler.queue(live)

    async def _refresh(self) -> None:
        """Read works again that another process changed and that are followed here."""
        if not (reading := self._works.read_only()):
            return
        versions = await self._database.run_in_db(self._store.versions, [live.id for live in reading])
        for live in reading:
            version = versions.get(live.id)
            if live.lease is None and (version is None or version != live.version):
                await self._works.refresh(live)
                live.version = version
