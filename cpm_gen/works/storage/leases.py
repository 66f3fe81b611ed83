"""Leases of works, in SQL: which process may write a work, and until when.

Times are the database's: no clock of another machine decides who holds a work. A lease that ends further ahead than any can is free,
too: the clock was set back. Whether a process may write is decided by holder and epoch alone, so a wrong clock can only make a
work change hands.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.sql.dml import ReturningUpdate

from cpm_gen.config.serve_options import LONGEST_LEASE
from cpm_gen.works.storage.records import Lease, WorkChange
from cpm_gen.works.storage.tables import works


def now() -> sa.ColumnElement[float]:
    """Seconds since 1970 by the database's clock, also inside a transaction."""
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Double)


def held() -> sa.ColumnElement[bool]:
    """Whether a process holds a work."""
    return works.c.holder.is_not(None) & works.c.lease.between(now(), now() + LONGEST_LEASE)


def waiting(model: str, network: str) -> sa.ColumnElement[bool]:
    """Whether a work waits for a process with this model."""
    mine = (works.c.state == "queued") & (works.c.model == model) & (works.c.network == network)
    return mine & sa.not_(sa.func.coalesce(held(), False))


def longest_waiting(model: str, network: str) -> sa.Select[tuple[str, str | None, float | None]]:
    """Id, last holder and time of the work that waits longest, locked. A work that another process is taking is left out."""
    query = sa.select(works.c.id, works.c.holder, works.c.lease).where(waiting(model, network))
    query = query.order_by(works.c.lease.nulls_first(), works.c.created, works.c.id).limit(1)
    return query.with_for_update(skip_locked=True)


def take(id: str, holder: str, seconds: float) -> ReturningUpdate[tuple[int]]:
    """Take a work from whichever process holds it; returns the new epoch."""
    taken = works.update().where(works.c.id == id)
    return taken.values(holder=holder, epoch=works.c.epoch + 1, lease=now() + seconds).returning(works.c.epoch)


def renew(holder: str, ids: Sequence[str], seconds: float) -> ReturningUpdate[tuple[str, int]]:
    """Hold works for ``seconds`` from now; returns id and epoch of those that the process still holds."""
    mine = works.update().where((works.c.holder == holder) & works.c.id.in_(ids))
    return mine.values(lease=now() + seconds).returning(works.c.id, works.c.epoch)


def give_back(id: str, lease: Lease, since: float | None) -> sa.Update:
    """End a lease. The work waits for another holder since now, or since the time it had before it was taken."""
    return works.update().where(under(id, lease)).values(holder=None, lease=now() if since is None else since)


def give_back_all(holder: str) -> sa.Update:
    """End all leases of a process."""
    return works.update().where(works.c.holder == holder).values(holder=None, lease=now())


def may_write(changes: Sequence[WorkChange], shared: bool) -> sa.Select[tuple[str]]:
    """The works that changes may be committed to: their leases are still the last ones that were given. All changes have one, or none."""
    fenced = [(change.id, change.lease.holder, change.lease.epoch) for change in changes if shared and change.lease]
    free = [change.id for change in changes if not (shared and change.lease)]
    held_works = sa.tuple_(works.c.id, works.c.holder, works.c.epoch).in_(fenced)
    return sa.select(works.c.id).where(held_works if fenced else works.c.id.in_(free))


def under(id: str, lease: Lease) -> sa.ColumnElement[bool]:
    """The work, if the lease is still the last one that was given for it."""
    return (works.c.id == id) & (works.c.holder == lease.holder) & (works.c.epoch == lease.epoch)
