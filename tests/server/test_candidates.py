"""Candidates over HTTP: whole, as events by sentence, in works, and what is refused."""

from typing import Any

import httpx
import pytest

import cpm_gen
from tests.service_process import WINDOW, Server, error, stream, until
from tests.works_client import create, follow, settled

BODY: dict[str, Any] = {"style": "lyric", "seed": 5, "temperature": 0.95, "top_k": 50, "top_p": 0.95, "candidates": 4}


@pytest.fixture(scope="module")
def llm():
    with cpm_gen.load(window_limit=WINDOW) as llm:
        yield llm


def test_a_text_with_candidates_is_the_library_s(client: httpx.Client, llm: cpm_gen.LLM) -> None:
    want = llm.generate(form="五绝", **BODY)
    answer = client.post("/generate", json={"form": "五绝"} | BODY)
    assert answer.status_code == 200, answer.text
    [choice] = answer.json()["choices"]
    assert (choice["text"], choice["logprob"]) == (want.text, want.logprob)


@pytest.mark.parametrize("shown", [False, True])
def test_a_stream_has_an_event_for_each_sentence(client: httpx.Client, shown: bool) -> None:
    happened = stream(client, form="五绝", show_candidates=shown, **BODY)
    whole = client.post("/generate", json={"form": "五绝"} | BODY).json()["choices"][0]["text"]
    sentences = [data for name, data in happened if name == "sentence"]
    assert len(sentences) == 4
    assert "".join(s["text"] for s in sentences) == whole
    assert "".join(data["text"] for name, data in happened if name == "token") == whole
    for sentence in sentences:
        assert ("candidates" in sentence) == shown
        if shown:
            kept = sentence["candidates"][sentence["kept"]]
            assert len(sentence["candidates"]) == 4
            assert kept == {name: sentence[name] for name in ("text", "logprob", "score")}
            assert kept["score"] == max(c["score"] for c in sentence["candidates"])
    assert [name for name, _ in happened][-1] == "done"


def test_a_text_without_candidates_has_no_event_for_sentences(client: httpx.Client) -> None:
    assert {name for name, _ in stream(client, form="五绝", **BODY | {"candidates": 1})} == {"token", "done"}


@pytest.mark.parametrize("streamed", [False, True])
def test_samples_come_best_first_with_rank(client: httpx.Client, streamed: bool) -> None:
    body = {"prompt": ["春", "江南"], "n": 3, "rank": True, "max_new_tokens": 12} | BODY | {"candidates": 1}
    answer = stream(client, **body)[-1][1] if streamed else client.post("/generate", json=body).json()
    choices = answer["choices"]
    assert sorted(c["index"] for c in choices[:3]) == [0, 1, 2]
    for own in (choices[:3], choices[3:]):
        assert [c["logprob"] for c in own] == sorted((c["logprob"] for c in own), reverse=True)


@pytest.mark.parametrize(
    ("path", "body", "field", "message"),
    [
        ("/generate", {"candidates": 0}, "candidates", "must be at least 1"),
        ("/generate", {"candidates": 17}, "candidates", "must be at most 16"),
        ("/generate", {"candidates": "8"}, "candidates", "candidates"),
        ("/generate", {"candidates": 16}, "candidates", "must be at most 8, the batch that the model was loaded with"),
        ("/works", {"candidates": 16}, "candidates", "must be at most 8, the batch that the model was loaded with"),
        ("/works", {"candidates": 8}, "candidates", "works take at most 4 places of the batch here"),
        ("/works", {"rank": True}, "rank", "rank"),
        ("/generate", {"candidates": 4, "show_candidates": True}, "show_candidates", "needs stream and candidates"),
        ("/generate", {"stream": True, "show_candidates": True}, "show_candidates", "needs stream and candidates"),
    ],
)
def test_what_is_wrong_is_refused_by_name(
    client: httpx.Client, path: str, body: dict[str, Any], field: str, message: str
) -> None:
    answer = client.post(path, json={"prompt": "春", "max_new_tokens": 5} | body)
    assert answer.status_code == 422, answer.text
    assert error(answer)["field"] == field
    assert message in error(answer)["message"]


def test_other_servers_bodies_take_candidates(client: httpx.Client) -> None:
    body = {"model": "cpm-embedded", "form": "五绝"} | BODY
    text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    assert text == client.post("/generate", json={"form": "五绝"} | BODY).json()["choices"][0]["text"]


def test_a_work_is_written_and_followed_by_sentences(client: httpx.Client) -> None:
    body = {"prompt": "春江潮水连海平，", "max_new_tokens": 40} | BODY
    work = create(client, **body)
    assert work["parameters"]["candidates"] == 4
    told = [data["text"] for _, name, data in follow(client, work["id"]) if name == "token"]
    done = settled(client, work["id"])
    whole = client.post("/generate", json=body).json()["choices"][0]
    assert done["choices"][0]["text"] == "".join(told) == whole["text"]
    assert done["choices"][0]["token_ids"] == whole["token_ids"]


@pytest.mark.slow
def test_texts_wait_for_places_and_all_are_written(start) -> None:
    server: Server = start("--batch", "4", "--queue", "20")
    with server.client() as client:
        body = {"prompt": "春", "max_new_tokens": 10} | BODY
        texts = [c["text"] for c in client.post("/generate", json=body | {"n": 3}).json()["choices"]]
        assert len(set(texts)) == 3
        refused = client.post("/generate", json=body | {"n": 7})
        # more places than the queue has: no time to try again would help
        assert (refused.status_code, error(refused)["code"]) == (422, "too_many_candidates")
        assert client.post("/generate", json=body).json()["choices"][0]["text"] == texts[0]


def test_works_make_room_for_a_request_with_more_candidates_than_they_leave_places(start) -> None:
    server = start("--batch", "4", "--work-places", "2")
    with server.client() as client:
        work = client.post("/works", json={"prompt": "话说", "max_new_tokens": None, "seed": 1}).json()["id"]
        other = client.post("/works", json={"prompt": "从前", "max_new_tokens": None, "seed": 2}).json()["id"]
        until(lambda: server.metric("cpm_works_writing") == 2)
        answer = client.post("/generate", json={"prompt": "从前", "candidates": 4, "max_new_tokens": 20, "timeout": 60})
        assert answer.json()["choices"][0]["finish_reason"] == "length"
        until(lambda: server.metric("cpm_works_writing") == 2)
        for id in (work, other):
            client.delete(f"/works/{id}")
