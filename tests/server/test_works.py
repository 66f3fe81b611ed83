"""Works: made, followed, stopped and gone on with, deleted, in one process."""

import threading
import time

import httpx
import pytest

from tests.service_process import PATIENCE, WINDOW, Server, error, idle, until
from tests.works_client import BODY, create, follow, grown, joined, look, settled, undisturbed, written


def test_a_work_is_what_generate_writes(server: Server, client: httpx.Client):
    body = {"prompt": ["话说", "从前"], "n": 2, "temperature": 0.9, "top_p": 0.9, "max_new_tokens": 60}
    work = create(client, **body, metadata={"title": "试"})
    assert work["state"] in ("queued", "running", "finished")
    done = settled(client, work["id"])
    assert done["state"] == "finished"
    assert written(done) == undisturbed(client, **body)
    assert [c["finish_reason"] for c in done["choices"]] == ["length"] * 4
    assert done["metadata"] == {"title": "试"}
    assert done["prompt"] == body["prompt"]
    assert done["usage"]["completion_tokens"] == 240
    assert done["usage"]["prompt_tokens"] == sum(
        client.post("/tokenize", json={"text": p, "style": "novel"}).json()["count"] for p in body["prompt"]
    )
    assert done["parameters"]["seed"] == 7
    assert done["parameters"]["window"] == {"hop": WINDOW // 2, "boundary": "token", "keep": 0}
    assert done["event_id"] == ",".join(f"60:{len(text)}" for text, _ in written(done))


def test_parameters_are_honoured_past_the_window(client: httpx.Client):
    body = {"max_new_tokens": 900, "window": {"hop": 100, "boundary": "sentence", "keep": 3}, "temperature": 0, "n": 1}
    body |= {"repetition_penalty": 1.3, "no_repeat_ngram": 4}
    done = settled(client, create(client, **body)["id"])
    assert written(done) == undisturbed(client, **body)
    assert done["choices"][0]["window_slides"] >= 3
    assert done["choices"][0]["window"]["start"] > 300
    assert 0 < done["choices"][0]["window"]["text_start"] < len(done["choices"][0]["text"])


def test_events_join_to_the_text_and_say_where_they_are(client: httpx.Client):
    work = create(client, max_new_tokens=700)
    events = list(follow(client, work["id"]))
    done = look(client, work["id"])
    assert [joined(events)] == written(done)
    names = [name for _, name, _ in events]
    assert names[0] == "state" and names[-1] == "done"
    assert "window" in names
    assert [d["state"] for _, name, d in events if name == "state"][-1] in ("running", "finished")
    tokens = chars = 0
    for event, name, data in events:
        if name == "token":
            tokens += len(data["token_ids"])
            chars += len(data["text"])
        assert event == f"{tokens}:{chars}"
    last = [data for _, name, data in events if name == "token"][-1]
    assert last["finish_reason"] == "length"
    window = [data for _, name, data in events if name == "window"][-1]
    assert window["start"] == done["choices"][0]["window"]["start"]
    summary = events[-1][2]
    assert summary["usage"] == done["usage"] and summary["seed"] == 7
    assert summary["choices"] == [{"index": 0, "finish_reason": "length", "window_slides": window["slides"]}]


@pytest.mark.slow
def test_a_lost_line_goes_on_exactly_where_it_ended(client: httpx.Client):
    work = create(client, max_new_tokens=1500, n=2)
    got, last = [], None
    for most in (1, 2, 40, 300, 5, 700):
        stream = follow(client, work["id"], last)
        for _ in range(most):
            event = next(stream, None)
            if event is None:
                break
            got.append(event)
            last = event[0]
        stream.close()
    got += follow(client, work["id"], last)
    done = settled(client, work["id"])
    assert [joined(got, 0), joined(got, 1)] == written(done)
    response = client.get(f"/works/{work['id']}/events", headers={"Last-Event-ID": done["event_id"]})
    assert response.status_code == 204


def test_every_position_of_a_finished_text_is_one_to_go_on_from(client: httpx.Client):
    work = create(client, max_new_tokens=40)
    events = list(follow(client, work["id"]))
    ((text, ids),) = written(settled(client, work["id"]))
    for event, name, _ in events:
        if name == "token" and event != f"{len(ids)}:{len(text)}":
            tokens, chars = map(int, event.split(":"))
            assert joined(list(follow(client, work["id"], event))) == (text[chars:], ids[tokens:])


@pytest.mark.slow
def test_paused_and_resumed_it_is_as_if_nothing_had_happened(server: Server, client: httpx.Client):
    work = create(client, max_new_tokens=1500)
    for tokens in (1, 200, 500):
        grown(client, work["id"], tokens)
        paused = client.post(f"/works/{work['id']}/pause").json()
        if paused["state"] == "finished":
            break
        assert paused["state"] == "paused"
        until(lambda: idle(server))
        assert look(client, work["id"])["usage"] == paused["usage"]
        assert client.post(f"/works/{work['id']}/pause").json()["state"] == "paused"
        assert client.post(f"/works/{work['id']}/resume").json()["state"] in ("queued", "running")
        client.post(f"/works/{work['id']}/resume")  # does no harm
    assert written(settled(client, work["id"])) == undisturbed(client, max_new_tokens=1500)


@pytest.mark.slow
def test_followers_of_a_paused_work_wait_and_hear_when_it_goes_on(client: httpx.Client):
    work = create(client, max_new_tokens=1500)
    grown(client, work["id"], 1)
    client.post(f"/works/{work['id']}/pause")
    events = []
    following = threading.Thread(target=lambda: events.extend(follow(client, work["id"])))
    following.start()
    until(lambda: [d["state"] for _, name, d in events if name == "state"] == ["paused"])
    time.sleep(0.5)  # a comment line passes
    client.post(f"/works/{work['id']}/resume")
    following.join(PATIENCE)
    assert events[-1][1] == "done"
    assert {"paused", "running"} <= {d["state"] for _, name, d in events if name == "state"}
    assert [joined(events)] == written(look(client, work["id"]))


def test_a_finished_work_can_be_continued(client: httpx.Client):
    work = create(client, max_new_tokens=50)
    assert settled(client, work["id"])["state"] == "finished"
    path = f"/works/{work['id']}/continue"
    assert client.post(path, json={"max_new_tokens": 30}).status_code == 200
    assert written(settled(client, work["id"])) == undisturbed(client, max_new_tokens=80)
    assert client.post(path).status_code == 200  # as many as the first time
    assert written(settled(client, work["id"])) == undisturbed(client, max_new_tokens=130)
    assert client.post(path, json={"max_new_tokens": None}).status_code == 200
    grown(client, work["id"], 200)
    client.post(f"/works/{work['id']}/pause")
    text, ids = written(look(client, work["id"]))[0]
    assert undisturbed(client, max_new_tokens=len(ids)) == [(text, ids)]
    assert error(client.post(path))["code"] == "wrong_state"
    client.delete(f"/works/{work['id']}")


def test_it_goes_on_past_the_stop_string_that_ended_it(client: httpx.Client):
    whole = undisturbed(client, max_new_tokens=120)[0]
    stop = whole[0][60:62]
    work = create(client, max_new_tokens=120, stop=[stop])
    done = settled(client, work["id"])
    assert done["choices"][0]["finish_reason"] == "stop"
    assert written(done)[0][0] == whole[0][: whole[0].index(stop)]
    got, ended = [], done["event_id"]
    client.post(f"/works/{work['id']}/continue", json={"max_new_tokens": 120 - len(written(done)[0][1])})
    got = list(follow(client, work["id"], ended))
    after = settled(client, work["id"])
    assert written(done)[0][0] + joined(got)[0] == written(after)[0][0]
    if after["choices"][0]["finish_reason"] == "length":
        assert written(after)[0] == whole


def test_a_deleted_work_is_gone_and_its_place_free(server: Server, client: httpx.Client):
    work = create(client, max_new_tokens=None)
    events = []
    following = threading.Thread(target=lambda: events.extend(follow(client, work["id"])))
    following.start()
    until(lambda: len(events) > 5)
    assert client.delete(f"/works/{work['id']}").status_code == 204
    following.join(30)
    assert not following.is_alive()
    assert events[-1][1:] == ("state", {"state": "deleted", "error": None})
    until(lambda: idle(server))
    for method, path in [("GET", ""), ("DELETE", ""), ("GET", "/events"), ("POST", "/pause"), ("POST", "/resume")]:
        response = client.request(method, f"/works/{work['id']}{path}")
        assert (response.status_code, error(response)["code"]) == (404, "not_found")
    assert work["id"] not in [w["id"] for w in client.get("/works").json()["works"]]


def test_the_list_is_newest_first_and_comes_in_pages(client: httpx.Client):
    made = [create(client, prompt=f"第{n}章 " + "长" * 300, max_new_tokens=5)["id"] for n in "一二三四五"]
    for id in made:
        settled(client, id)
    first = client.get("/works", params={"limit": 2}).json()
    assert [w["id"] for w in first["works"]] == made[:2:-1]
    text = written(look(client, made[4]))[0][0]
    assert client.delete(f"/works/{made[3]}").status_code == 204  # where the page ended
    second = client.get("/works", params={"limit": 2, "before": first["next"]}).json()
    assert [w["id"] for w in second["works"]] == made[2:0:-1]
    third = client.get("/works", params={"limit": 200, "before": second["next"]}).json()  # other tests' works, too
    assert third["works"][0]["id"] == made[0] and third["next"] is None
    for wrong in (made[0], "nan:" + made[0], "1.5:\0", ":", "1.5:" + "x" * 65):
        response = client.get("/works", params={"before": wrong})
        assert (response.status_code, error(response)["field"]) == (422, "before")
    head = first["works"][0]
    assert head["state"] == "finished" and head["tokens"] == 5
    assert head["prompt"] == ("第五章 " + "长" * 300)[:200]
    assert (head["characters"], head["tail"]) == (len(text), text)
    assert "choices" not in head
    for id in made:
        client.delete(f"/works/{id}")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"stream": True}, "stream"),
        ({"timeout": 1.0}, "timeout"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": "x" * 2**15}}, "metadata"),
        ({"n": 100}, "n"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "长" * 2000}, "prompt"),
        ({"window": {"hop": 5000}}, "window.hop"),
    ],
)
def test_what_cannot_be_a_work_is_refused(client: httpx.Client, body, field):
    response = client.post("/works", json={**BODY, **body})
    assert response.status_code == 422
    assert error(response)["field"] == field


def test_states_that_do_not_fit_are_refused(client: httpx.Client):
    work = create(client, max_new_tokens=5)
    settled(client, work["id"])
    for what in ("pause", "resume"):
        response = client.post(f"/works/{work['id']}/{what}")
        assert (response.status_code, error(response)["code"]) == (409, "wrong_state")
    for id in ("x", "1:1,2:2", "-1:0", "1", "9" * 40 + ":1"):
        response = client.get(f"/works/{work['id']}/events", headers={"Last-Event-ID": id})
        assert (response.status_code, error(response)["field"]) == (422, "Last-Event-ID")


@pytest.mark.slow
def test_works_take_turns_and_leave_room_for_others(start):
    server = start("--batch", "4", "--work-turn", "0.5")
    with server.client() as client:
        works = [create(client, max_new_tokens=None, seed=n)["id"] for n in range(5)]
        until(lambda: server.metric("cpm_works_writing") == 2)
        assert server.metric("cpm_works_waiting") == 3
        undisturbed(client, max_new_tokens=20)  # answers among them
        for id in works:
            grown(client, id, 50)
        assert server.metric("cpm_works_writing") == 2
        for id in works:
            assert client.post(f"/works/{id}/pause").json()["state"] == "paused"
        until(lambda: idle(server))
        for n, id in enumerate(works):
            ((text, ids),) = written(look(client, id))
            assert undisturbed(client, max_new_tokens=len(ids), seed=n) == [(text, ids)]


@pytest.mark.slow
def test_limits_are_settings(start):
    server = start("--max-works", "2", "--max-work-tokens", "100")
    with server.client() as client:
        for tokens in (101, None):
            response = client.post("/works", json={**BODY, "max_new_tokens": tokens})
            assert (response.status_code, error(response)["code"]) == (422, "too_many_tokens")
        works = [create(client, max_new_tokens=60)["id"] for _ in range(2)]
        response = client.post("/works", json={**BODY, "max_new_tokens": 100})
        assert (response.status_code, error(response)["code"]) == (409, "too_many_works")
        settled(client, works[0])
        response = client.post(f"/works/{works[0]}/continue", json={"max_new_tokens": 41})
        assert (response.status_code, error(response)["code"]) == (422, "too_many_tokens")
        assert client.post(f"/works/{works[0]}/continue", json={"max_new_tokens": 40}).status_code == 200
        client.delete(f"/works/{works[1]}")
        create(client, max_new_tokens=100)


def test_a_work_belongs_to_its_key(start):
    server = start(environment={"CPM_GEN_API_KEYS": "ann:secret-a bob:secret-b"})
    with server.client() as client:
        ann, bob = ({"Authorization": f"Bearer secret-{n}"} for n in "ab")
        assert client.post("/works", json=BODY).status_code == 401
        id = client.post("/works", json=BODY, headers=ann).json()["id"]
        assert client.get(f"/works/{id}").status_code == 401
        assert client.get(f"/works/{id}", headers=ann).status_code == 200
        for method, path in [
            ("GET", ""),
            ("DELETE", ""),
            ("GET", "/events"),
            ("POST", "/pause"),
            ("POST", "/continue"),
        ]:
            assert client.request(method, f"/works/{id}{path}", headers=bob).status_code == 404
        assert client.get("/works", headers=bob).json() == {"works": [], "next": None}
        assert client.get("/works", params={"before": f"9999999999.0:{id}"}, headers=bob).json()["works"] == []
        assert [w["id"] for w in client.get("/works", headers=ann).json()["works"]] == [id]


def test_a_prompt_longer_than_the_window_begins_out_of_sight(client: httpx.Client):
    body = {"prompt": "长" * (WINDOW + 200), "truncate_prompt": True, "max_new_tokens": 30}
    work = create(client, **body)
    events = list(follow(client, work["id"]))
    assert [joined(events)] == undisturbed(client, **body)
    (window,) = [data for _, name, data in events if name == "window"]
    assert window["start"] > 100 and window["slides"] == 0 == window["text_start"]


def test_tokens_are_told_where_asked_for(client: httpx.Client):
    id = create(client, max_new_tokens=5)["id"]
    settled(client, id)
    assert len(client.get(f"/works/{id}?token_ids=true").json()["choices"][0]["token_ids"]) == 5
    assert client.get(f"/works/{id}").json()["choices"][0]["token_ids"] is None


def test_works_may_be_looked_at_while_they_are_deleted(server: Server, client: httpx.Client):
    made: list[str] = []

    def churn() -> None:
        with server.client() as other:
            for _ in range(15):
                made.append(create(other, max_new_tokens=20)["id"])
                assert other.delete(f"/works/{made[-1]}").status_code == 204

    threads = [threading.Thread(target=churn) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert client.get("/works").status_code == 200
        if made:
            assert client.get(f"/works/{made[-1]}").status_code in (200, 404)


def test_of_many_who_change_a_work_at_once_each_gets_an_answer(server: Server, client: httpx.Client):
    for _ in range(5):
        id = create(client, max_new_tokens=None)["id"]
        got: list[int] = []

        def change(method: str, path: str, id: str = id, got: list[int] = got) -> None:
            with server.client() as other:
                got.append(other.request(method, f"/works/{id}{path}").status_code)

        asked = [
            ("POST", "/pause"),
            ("POST", "/resume"),
            ("DELETE", ""),
            ("POST", "/pause"),
            ("DELETE", ""),
            ("GET", ""),
        ]
        threads = [threading.Thread(target=change, args=a) for a in asked]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(got) <= {200, 204, 404}
        assert got.count(204) == 1
    until(lambda: idle(server))
    assert "the database failed" not in server.log


def test_a_method_that_an_address_does_not_take_is_answered_with_those_it_takes(client: httpx.Client):
    for path, allowed in (
        ("/works", "GET, HEAD, POST"),
        ("/works/x", "DELETE, GET, HEAD"),
        ("/works/x/pause", "POST"),
        ("/generate", "POST"),
    ):
        response = client.put(path)
        assert (response.status_code, error(response)["code"]) == (405, "method_not_allowed")
        assert response.headers["allow"] == allowed


def test_an_id_that_no_work_can_have_is_not_found(client: httpx.Client):
    for id in ("x", "work-%00", "work-0123456789abcdef0", "work-'; DROP"):
        assert client.get(f"/works/{id}").status_code == 404


def test_prompts_of_works_are_logged_where_asked_for(single: Server, server: Server):
    for of, logged in ((single, True), (server, False)):
        with of.client() as client:
            id = create(client, prompt="秘密的话", max_new_tokens=2)["id"]
            settled(client, id)
            marker = client.delete(f"/works/{id}").headers["X-Request-Id"]
        until(lambda of=of, marker=marker: marker in of.log)
        assert ("秘密的话" in of.log) is logged
