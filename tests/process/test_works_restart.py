"""Works outlive the process: killed, told to end, with a rank dead, with the disk full. Compared with undisturbed runs."""

import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from tests.service_process import PATIENCE, Server, error, until
from tests.works_client import BODY, create, follow, grown, joined, look, settled, undisturbed, written

SAMPLED = {"temperature": 0.9, "top_k": 40, "presence_penalty": 0.4, "n": 2, "seed": 11}
GREEDY = {"temperature": 0, "repetition_penalty": 1.2, "n": 1, "seed": 3, "window": {"hop": 60, "boundary": "sentence"}}


def serve(start, database: Path | str, *flags: str, **options) -> Server:
    return start("--database", str(database), *flags, **options)


def kills(start, database: Path, count: int) -> None:
    """Kill -9 at random moments while a greedy and a sampled work are written and followed."""
    chance = random.Random(count)
    bodies = {"greedy": GREEDY, "sampled": SAMPLED}
    ids: dict[str, str] = {}
    got: dict[str, list] = {name: [] for name in bodies}
    for round in range(count + 1):
        server = serve(start, database, "--keep-alive", "300")  # longer than its client waits for a word
        with server.client() as client:
            if not ids:
                ids = {name: create(client, **body, max_new_tokens=None)["id"] for name, body in bodies.items()}
            if round < count:
                most = chance.randint(1, 500)  # events, not seconds: /generate writes no more than 16,384 tokens
                name = chance.choice(list(bodies))
                last = got[name][-1][0] if got[name] else None
                for event in itertools.islice(follow(client, ids[name], last), most):  # the other one is written unseen
                    got[name].append(event)
                server.signal(signal.SIGKILL)
                server.wait()
                continue
            for name, id in ids.items():
                last = got[name][-1][0] if got[name] else None
                told = [len(joined(got[name], index)[1]) for index in range(bodies[name]["n"])]

                def further(id: str = id, told: list[int] = told) -> bool:
                    return all(len(c["token_ids"]) > t for c, t in zip(look(client, id)["choices"], told, strict=True))

                until(further)  # what was told and not kept is written again, and more
                assert client.post(f"/works/{id}/pause").json()["state"] == "paused"
                done = look(client, id)
                for event in follow(client, id, last):
                    got[name].append(event)
                    if event[0] == done["event_id"]:
                        break
                for index, (text, tokens) in enumerate(written(done)):
                    assert joined(got[name], index) == (text, tokens)
                    whole = undisturbed(client, **bodies[name], max_new_tokens=len(tokens))
                    assert whole[index] == (text, tokens)


def killed(start, database: Path, body: dict[str, Any], after: int) -> dict[str, Any]:
    """A work whose service was killed after some events, once the next one has finished it: as if it had not been."""
    server = serve(start, database, "--keep-alive", "300", "--window-limit", "511")
    with server.client() as client:
        id = create(client, **body)["id"]
        begun = list(itertools.islice(follow(client, id), after))
        server.signal(signal.SIGKILL)
        server.wait()
    assert len(begun) == after
    server = serve(start, database, "--keep-alive", "300", "--window-limit", "511")
    with server.client() as client:
        done = settled(client, id)
        assert written(done) == undisturbed(client, **body)
    return done


@pytest.mark.slow
def test_a_killed_work_with_a_story_keeps_its_ids(start, tmp_path: Path):
    story = "[前提]\n林冲被高俅陷害。\n[笔记 深1]\n风雪很大。\n[设定: 山]\n山上有人。\n[设定: 水, 江]\n水在城东。\n"
    story += (
        "[第一回 风雪] 600-700字\n林冲到草料场。\n[第二回 上山] 600-700字\n林冲上山。\n[第三回] 500-700字\n林冲下山。\n"
    )
    body = {"story": story, "style": "novel", "seed": 4, "n": 1, "temperature": 0.9}
    body["window"] = {"hop": 100, "boundary": "sentence"}
    done = killed(start, tmp_path / "works.db", body, after=700)
    assert done["choices"][0]["window_slides"] > 5
    assert done["choices"][0]["finish_reason"] == "story"


@pytest.mark.slow
def test_a_killed_work_keeps_to_its_form_and_its_ids(start, tmp_path: Path):
    body = {"form": "七排 60", "style": "lyric", "seed": 4, "n": 1, "temperature": 0.9, "top_k": 50}
    done = killed(start, tmp_path / "works.db", body, after=60)
    assert done["choices"][0]["finish_reason"] == "form"


@pytest.mark.slow
def test_a_killed_work_begins_its_sentence_again_and_keeps_its_ids(start, tmp_path: Path):
    body = {"seed": 4, "n": 1, "temperature": 0.9, "top_k": 50, "candidates": 4, "max_new_tokens": 400}
    work, told = "", list[tuple]()
    for kill in (3, 9, 0):
        server = serve(start, tmp_path / "works.db", "--keep-alive", "300")
        with server.client() as client:
            work = work or create(client, **body)["id"]
            for event in follow(client, work, told[-1][0] if told else None):
                told.append(event)
                if kill and len(told) >= kill:
                    break
            if kill:
                server.signal(signal.SIGKILL)
                server.wait()
                continue
            assert written(settled(client, work)) == [joined(told)] == undisturbed(client, **body)


@pytest.mark.slow
def test_ten_kills_leave_no_trace(start, tmp_path: Path):
    kills(start, tmp_path / "works.db", 10)


def test_a_kill_leaves_no_trace(start, tmp_path: Path):
    kills(start, tmp_path / "works.db", 1)


@pytest.mark.slow
def test_a_work_with_an_unknown_field_is_paused_with_the_reason_and_keeps_its_text(start, tmp_path: Path):
    server = serve(start, tmp_path / "works.db")
    with server.client() as client:
        id = create(client, max_new_tokens=3000)["id"]
        other = create(client, max_new_tokens=None, seed=2)["id"]
        grown(client, id, 48)
        grown(client, other, 1)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    with sqlite3.connect(tmp_path / "works.db") as database:
        add = "UPDATE works SET parameters = json_set(parameters, '$.mood', 'sad') WHERE id = ?"
        database.execute(add, [id])
    database.close()
    server = serve(start, tmp_path / "works.db")
    with server.client() as client:
        work = look(client, id)
        assert work["state"] == "paused"
        assert work["error"]["code"] == "unreadable_work" and work["error"]["field"] == "parameters.mood"
        ((text, ids),) = written(work)
        assert len(ids) >= 48
        assert undisturbed(client, max_new_tokens=len(ids)) == [(text, ids)]
        assert {w["id"]: w["error"] for w in client.get("/works").json()["works"]} == {id: work["error"], other: None}
        response = client.post(f"/works/{id}/resume")
        assert (response.status_code, error(response)) == (409, work["error"])
        grown(client, other, look(client, other)["usage"]["completion_tokens"] + 1)
    assert "mood: unknown field" in server.log and "Traceback" not in server.log


@pytest.mark.slow
def test_a_paused_work_stays_paused_and_a_followed_one_tells_its_followers_of_the_end(start, tmp_path: Path):
    server = serve(start, tmp_path / "works.db")
    with server.client() as client:
        paused, running = (create(client, max_new_tokens=None, seed=n)["id"] for n in (1, 2))
        grown(client, paused, 20)
        client.post(f"/works/{paused}/pause")
        events = []
        for event in follow(client, running):
            events.append(event)
            if len(events) == 30:
                server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert events[-1][1] == "error" and events[-1][2]["error"]["code"] == "shutting_down"
    server = serve(start, tmp_path / "works.db")
    with server.client() as client:
        before = look(client, paused)
        assert before["state"] == "paused"
        for event in follow(client, running, events[-1][0]):
            events.append(event)
            if len(events) > 300:
                break
        client.post(f"/works/{running}/pause")
        assert look(client, paused)["usage"] == before["usage"]
        text, ids = joined(events)
        whole = undisturbed(client, max_new_tokens=len(ids), seed=2)[0]
        assert ids == whole[1]
        assert whole[0].startswith(text)


@pytest.mark.slow
def test_what_was_told_is_kept_within_a_second(start, tmp_path: Path):
    for attempt in range(3):  # a busy disk takes its time now and then; what is not kept is not kept each time
        server = serve(start, tmp_path / f"works{attempt}.db")
        with server.client() as client:
            id = create(client, max_new_tokens=None)["id"]
            told = []
            for _, name, data in follow(client, id):
                if name == "token":
                    told.append((time.monotonic(), len(data["token_ids"])))
                if told and told[-1][0] - told[0][0] > 2.0:
                    break
            server.signal(signal.SIGKILL)
            server.wait()
        old = sum(count for at, count in told if at < told[-1][0] - 1.0)
        with sqlite3.connect(tmp_path / f"works{attempt}.db") as database:
            ((kept,),) = database.execute("SELECT tokens FROM texts").fetchall()
        database.close()
        if kept >= old > 0:
            break
    assert kept >= old > 0


@pytest.mark.slow
def test_two_processes_do_not_share_a_database(start, tmp_path: Path):
    serve(start, tmp_path / "works.db")
    second = serve(start, tmp_path / "works.db", ready=False)
    assert second.wait() == 2
    assert "in use by another cpm-gen serve" in second.log
    assert "Traceback" not in second.log


@pytest.mark.slow
def test_the_work_of_another_model_waits_for_it(start, tmp_path: Path):
    server = serve(start, tmp_path / "works.db")
    with server.client() as client:
        running, finished = create(client, max_new_tokens=None)["id"], create(client, max_new_tokens=5)["id"]
        grown(client, running, 10)
        settled(client, finished)
    server.close()
    for other in (("--window-limit", "100"), ("--kv-cache", "int8")):
        server = serve(start, tmp_path / "works.db", *other)
        with server.client() as client:
            work = look(client, running)
            assert work["state"] == "queued" and work["error"]["code"] == "other_model"
            response = client.post(f"/works/{finished}/continue")
            assert (response.status_code, error(response)["code"]) == (409, "other_model")
            assert client.get("/works").json()["works"][1]["error"]["code"] == "other_model"
        server.close()
    server = serve(start, tmp_path / "works.db")
    with server.client() as client:
        tokens = work["usage"]["completion_tokens"] + 1
        grown(client, running, tokens)
        assert look(client, running)["error"] is None


@pytest.mark.slow
def test_with_restart_workers_works_go_on_after_a_rank_died(start, tmp_path: Path):
    server = serve(start, tmp_path / "works.db", "--tensor-parallel", "2", "--restart-workers")
    with server.client() as client:
        id = create(client, max_new_tokens=2000)["id"]
        grown(client, id, 50)
        before = set(server.all_children())
        ranks = [p for p in before if b"worker" in Path(f"/proc/{p}/cmdline").read_bytes()]
        assert len(ranks) == 1
        os.kill(ranks[0], signal.SIGKILL)
        events = list(follow(client, id))
        assert events[-1][1] == "done"
        done = settled(client, id)
        assert [joined(events)] == written(done)
        assert written(done) == undisturbed(client, max_new_tokens=2000)
        assert server.metric("cpm_engine_restarts_total") == 1


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files of another process")
def test_a_full_disk_stops_works_until_there_is_room(start, tmp_path: Path):
    import resource

    server = serve(start, tmp_path / "works.db")
    with server.client() as client:
        id = create(client, max_new_tokens=6000)["id"]
        grown(client, id, 20)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        until(lambda: "the database failed" in server.log)
        response = client.get(f"/works/{id}")
        assert response.status_code in (200, 503)
        until(lambda: server.metric("cpm_works_writing") == 0)
        assert undisturbed(client, max_new_tokens=5)  # the service itself goes on
        assert client.post("/works", json=BODY).json()["error"]["code"] == "storage_failed"
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: client.get(f"/works/{id}").status_code == 200)  # the service looks after a while
        done = settled(client, id)
        assert done["state"] == "finished"
        assert written(done) == undisturbed(client, max_new_tokens=6000)
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_postgresql_keeps_them_as_well(start, postgres: str, tmp_path: Path):
    server = serve(start, postgres, "--work-lease", "2")
    with server.client() as client:
        id = create(client, max_new_tokens=600, prompt="纸\u0000上")["id"]
        grown(client, id, 30)
        server.signal(signal.SIGKILL)
        server.wait()
    server = serve(start, postgres, "--work-lease", "2")  # it waits until the lease of the killed one ends
    with server.client() as client:
        done = settled(client, id)
        assert written(done) == undisturbed(client, max_new_tokens=600, prompt="纸\u0000上")
        assert client.delete(f"/works/{id}").status_code == 204


def test_ctrl_c_ends_it_and_the_work_is_kept(begin: Callable[..., subprocess.Popen[str]], tmp_path: Path):
    """As a shell does, send the signal to the whole process group."""
    process = begin(
        [sys.executable, "-m", "cpm_gen", "serve", "--port", "0", "--database", str(tmp_path / "works.db")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    import httpx

    with httpx.Client(base_url=process.stdout.readline().split()[-1], timeout=PATIENCE, trust_env=False) as client:
        id = create(client, max_new_tokens=None)["id"]
        grown(client, id, 10)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    with sqlite3.connect(tmp_path / "works.db") as database:
        ((state, tokens),) = database.execute("SELECT state, tokens FROM works JOIN texts ON work = id").fetchall()
    database.close()
    assert state == "queued" and tokens >= 10


@pytest.mark.slow
def test_a_database_that_hangs_does_not_keep_the_service_from_ending(start, postgres: str):
    server = serve(start, postgres)
    main = next(
        int(p.name) for p in Path("/proc").glob("[0-9]*") if f"-p\0{make_url(postgres).port}\0".encode() in cmdline(p)
    )
    with server.client() as client:
        id = create(client, max_new_tokens=None)["id"]
        grown(client, id, 20)
        stopped = [main, *map(int, Path(f"/proc/{main}/task/{main}/children").read_text().split())]
        try:
            for pid in stopped:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(1.0)
            server.signal()
            assert server.wait() == 1
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
    assert "did not answer; the process ends without it" in server.log
    assert "Traceback" not in server.log


def cmdline(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it has ended
        return b""
