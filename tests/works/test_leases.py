"""Leases in the database: one holder at a time, by the database's clock, and nothing is written without one."""

import dataclasses
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from cpm_gen.works.storage import leases
from cpm_gen.works.storage.records import Lease, StoredWork, TextPiece, WorkChange
from cpm_gen.works.storage.store import Store
from cpm_gen.works.storage.tables import works
from tests.works.test_store import work

HOUR = 3600.0


@pytest.fixture
def url(postgres: str) -> str:
    engine = sa.create_engine(postgres)
    Store(postgres).close()
    with engine.begin() as connection:
        connection.execute(works.delete())
    engine.dispose()
    return postgres


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store(url, 15.0)
    yield store
    store.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch):
    """Set the database's clock to its time and some seconds."""
    now = leases.now

    def set_to(seconds: float) -> None:
        monkeypatch.setattr(leases, "now", lambda: now() + seconds)

    return set_to


def claim(store: Store, holder: str) -> tuple[str, Lease] | None:
    claimed = store.claim(holder, "m", "n")
    return None if claimed is None else (claimed[0].id, claimed[1])


def change(put: StoredWork, lease: Lease, token: int, *ids: int) -> WorkChange:
    """A commit that adds tokens to the first text."""
    text = dataclasses.replace(put.texts[0], tokens=token + len(ids), chars=token + len(ids))
    return WorkChange(put.id, "queued", None, [(text, [TextPiece(token, token, ids, "字" * len(ids))])], lease)


def test_a_work_has_one_holder_at_a_time(store: Store):
    store.add(work())
    first = claim(store, "a")
    assert first == ("work-1", Lease("a", 1))
    assert claim(store, "b") is None
    kept = store.get("work-1")
    assert kept is not None and kept.held
    assert not store.waiting("m", "n")


def test_a_work_of_another_model_or_in_another_state_is_not_claimed(store: Store):
    for number, other in enumerate(({"model": "x"}, {"network": "x"}, {"state": "paused"}, {"state": "finished"})):
        store.add(work(f"work-{number}", **other))
    assert claim(store, "a") is None
    assert not store.waiting("m", "n")


def test_the_work_that_waits_longest_is_claimed_first(store: Store):
    for number in range(3):
        store.add(work(f"work-{number}", created=9.0 - number))  # a client's clock may be wrong
    first = claim(store, "a")
    assert first is not None and first[0] == "work-0"
    store.give_back([(*first, None)])
    second = claim(store, "a")
    assert second is not None and second[0] == "work-1"
    store.give_back([(*second, 1.0)])  # it had no place: it keeps its own
    assert [claim(store, "a"), claim(store, "a"), claim(store, "a")] == [
        ("work-1", Lease("a", 2)),
        ("work-2", Lease("a", 1)),
        ("work-0", Lease("a", 2)),
    ]


def test_a_lease_that_is_not_renewed_runs_out(store: Store, clock):
    store.add(work())
    claim(store, "a")
    clock(14.0)
    assert store.renew("a", ["work-1"]) == {"work-1": 1}
    clock(28.0)
    assert claim(store, "b") is None
    clock(30.0)
    assert store.waiting("m", "n")
    claimed = store.claim("b", "m", "n")
    assert claimed is not None and claimed[1:3] == (Lease("b", 2), "a")
    assert store.renew("a", ["work-1"]) == {}


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_jumps_makes_a_work_change_hands_and_harms_nothing(store: Store, clock, jump: float):
    put = work()
    store.add(put)
    _, lease = claim(store, "a") or ("", Lease("", 0))
    assert store.save([change(put, lease, 0, 1, 2)]) == []
    clock(jump)
    assert claim(store, "b") == ("work-1", Lease("b", 2))
    assert store.save([change(put, lease, 2, 3)]) == ["work-1"]
    assert store.save([change(put, Lease("b", 2), 2, 3, 4)]) == []
    clock(0.0)
    assert [i for piece in store.read("work-1", 0) for i in piece.token_ids] == [1, 2, 3, 4]


def test_what_lost_its_lease_writes_nothing(store: Store):
    put, other = work(), work("work-2", created=2.0)
    store.add(put)
    store.add(other)
    leases_of_a = dict(filter(None, (claim(store, "a"), claim(store, "a"))))
    assert store.save([change(put, leases_of_a["work-1"], 0, 1, 2)]) == []
    taken = store.take("work-1", "b")
    assert taken is not None and taken[1] == Lease("b", 2) and taken[0].texts[0].tokens == 2
    late = [change(put, leases_of_a["work-1"], 2, 9), change(other, leases_of_a["work-2"], 0, 5)]
    assert store.save(late) == ["work-1"], "the other work of the same commit is written"
    assert [p.token_ids for p in store.read("work-1", 0)] == [(1, 2)]
    assert [p.token_ids for p in store.read("work-2", 0)] == [(5,)]
    store.give_back([("work-1", leases_of_a["work-1"], None)])
    assert store.save([change(put, Lease("b", 2), 2, 3)]) == [], "the late give-back did not end it"
    assert store.take("work-1", "a") is not None
    assert store.save([change(put, leases_of_a["work-1"], 3, 9)]) == ["work-1"], (
        "nor may an earlier tenure of its holder"
    )


def test_leases_given_back_are_free_at_once(store: Store):
    for number in range(2):
        store.add(work(f"work-{number}"))
        claim(store, "a")
    store.give_back_all("a")
    assert claim(store, "b") and claim(store, "b")


def test_a_process_suspended_inside_a_transaction_holds_up_no_other(store: Store, url: str):
    store.add(work())
    store.add(work("work-2", created=2.0))
    engine = sa.create_engine(url)
    with engine.connect() as suspended:
        suspended.execute(works.update().where(works.c.id == "work-1").values(updated=3.0))
        assert claim(store, "b") == ("work-2", Lease("b", 1))
        assert claim(store, "b") is None
    assert claim(store, "b") == ("work-1", Lease("b", 1))
    engine.dispose()
    with store._database.engine.connect() as connection:
        assert connection.scalar(sa.text("SHOW idle_in_transaction_session_timeout")) == "10s"


def test_a_new_work_may_be_held_from_the_beginning(store: Store):
    put = work()
    store.add(put, None, Lease("a", 1))
    assert claim(store, "b") is None
    assert store.save([change(put, Lease("a", 1), 0, 1)]) == []


def test_a_reader_sees_that_a_work_changed(store: Store, clock):
    put = work()
    store.add(put)
    seen = [store.versions(["work-1", "no-such"])]
    _, lease = claim(store, "a") or ("", Lease("", 0))
    seen.append(store.versions(["work-1"]))
    store.save([change(put, lease, 0, 1)])
    seen.append(store.versions(["work-1"]))
    assert store.versions(["work-1"]) == seen[-1]
    clock(HOUR)
    seen.append(store.versions(["work-1"]))
    store.delete("work-1")
    seen.append(store.versions(["work-1"]))
    assert seen[-1] == {}
    assert len({str(found) for found in seen}) == len(seen)
