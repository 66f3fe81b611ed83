"""Everything is bounded, and every refusal says what, in one shape."""

import concurrent.futures
import json
import socket
import threading
import time

import httpx
import pytest

from tests.service_process import ORIGIN, PATIENCE, error, idle, until

BODY = {"prompt": "从前", "max_new_tokens": 2}


def raw(server, request: bytes, patience: float = 30.0) -> bytes:
    """What comes back for bytes on a connection of their own."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=patience) as connection:
        connection.sendall(request)
        connection.settimeout(patience)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_a_large_body_is_refused_by_its_length(server, client):
    response = client.post("/generate", content=b" " * 1_000_001, headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert error(response)["code"] == "body_too_large"
    assert client.get("/health/live").status_code == 200


def test_a_large_body_is_refused_before_it_is_sent(server):
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9999999\r\n\r\n"
    assert raw(server, head).startswith(b"HTTP/1.1 413 ")


def test_a_large_body_in_chunks_is_refused_too(server):
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = raw(server, head + chunk * 16)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in answer


def test_a_body_that_does_not_come_is_not_waited_for(single):
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"
    answer = raw(single, head)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"body_timeout" in answer


def test_a_full_queue_says_when_to_come_again(single):
    endless = BODY | {"max_new_tokens": 10_000, "stream": True}
    with single.client() as client, single.client() as other, single.client() as third:
        with client.stream("POST", "/generate", json=endless) as first, other.stream("POST", "/generate", json=endless):
            until(lambda: single.metric("cpm_queue_depth") == 1)
            for path, body in (("/generate", BODY), ("/v1/completions", {"model": "cpm-embedded", "prompt": "从前"})):
                response = third.post(path, json=body)
                assert response.status_code == 429
                assert int(response.headers["Retry-After"]) >= 1
                assert response.json()["error"]["code"] == "queue_full"
            assert third.post("/score", json={"text": "从前"}).status_code == 429
            first.close()
            until(lambda: single.metric("cpm_queue_depth") == 0)  # the second runs now; one may wait
            with client.stream("POST", "/generate", json=endless) as again:
                assert again.status_code == 200
        until(lambda: third.post("/generate", json=BODY).status_code == 200)
    until(lambda: idle(single))


def test_more_than_the_queue_holds_is_refused_at_once(single):
    with single.client() as client:
        assert client.post("/generate", json=BODY | {"n": 3}).status_code == 429
        assert client.post("/generate", json=BODY | {"n": 2}).status_code == 200


HOSTILE = {
    "nul": "从\0前",
    "control characters": "".join(map(chr, range(1, 32))) + "从前",
    "right to left": "\u202e从前\u2066\u2069\ufeff",
    "unassigned": "\U000e0fff\U0010ffff\ufffe",
    "combining": "a" + "\u0301" * 5000,
    "emoji": "👩‍👩‍👧‍👦" * 500,
    "specials": "<eod><s></s><unk><pad>▂▃▁",
    "one character": "啊" * 150_000,
    "no spaces": "a" * 150_000,
    "spaces": " " * 10_000 + "x",
}


@pytest.mark.parametrize(
    "text",
    [pytest.param(text, id=name, marks=[pytest.mark.slow] * (name == "spaces")) for name, text in HOSTILE.items()],
)
def test_hostile_text_gets_an_answer_or_a_refusal(client, text):
    for path, body in (
        ("/generate", BODY | {"prompt": text, "truncate_prompt": True}),
        ("/generate", BODY | {"stop": [text[:200]]}),
        ("/tokenize", {"text": text}),
        ("/score", {"text": text}),
        ("/v1/completions", {"model": "cpm-embedded", "prompt": text, "truncate_prompt": True, "max_tokens": 1}),
    ):
        response = client.post(path, json=body)
        assert response.status_code in (200, 400, 422), (path, response.text[:300])
        if response.status_code != 200:
            assert text[:20] not in response.json()["error"]["message"]


def test_a_megabyte_of_one_character_is_refused(single):
    with single.client() as client:
        response = client.post("/generate", json=BODY | {"prompt": "a" * 1_000_000})
        assert response.status_code == 422
        assert error(response)["field"] == "prompt"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b'{"prompt": "\\ud800", "max_new_tokens": 2}', 422),
        (b'{"prompt": ["\\udfff\\ud800"], "max_new_tokens": 2}', 422),
        (b'{"prompt": "\xed\xa0\x80"}', 422),
        (b'{"prompt": "\xff"}', 400),
        (b"", 422),
        (b"{", 400),
        (b"null", 422),
        (b"[1]", 422),
        (b'"text"', 422),
        (b"[" * 100_000, 400),
        (b'{"prompt": "a", "n": NaN}', 422),
        (b'{"prompt": "a", "temperature": NaN}', 422),
        (b'{"prompt": "a", "temperature": Infinity}', 422),
        (b'{"prompt": "a", "seed": 1' + b"0" * 6000 + b"}", 400),
        (b'{"prompt": "a", "seed": 1e400}', 422),
        (b'{"prompt": "a", "\\ud800": 1}', 422),
    ],
    ids=lambda value: str(value)[:40],
)
def test_hostile_json_is_refused(client, content, status):
    response = client.post("/generate", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == status, response.text
    assert error(response)["code"] in ("malformed", "invalid")


SLOW = "的了我" * 60_000  # jieba needs minutes for it


def test_a_text_made_to_take_for_ever_is_given_up(single):
    with single.client() as client, single.client() as other:
        began = time.monotonic()
        slow = client.post("/tokenize", json={"text": SLOW})
        assert slow.status_code == 422
        assert (error(slow)["code"], error(slow)["field"]) == ("prompt_too_slow", "text")
        assert time.monotonic() - began < 30
        assert other.post("/tokenize", json={"text": "从前" * 5_000}).status_code == 200


@pytest.mark.slow
def test_texts_of_those_who_left_are_not_read(single):
    timeout = httpx.Timeout(PATIENCE, read=0.3)

    def leave(path: str) -> None:
        field = "prompt" if path == "/generate" else "text"
        with httpx.Client(base_url=single.url, timeout=timeout) as client, pytest.raises(httpx.ReadTimeout):
            client.post(path, json={field: SLOW})

    before = set(single.all_children())
    seen, ended = set(before), threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            seen.update(single.all_children())

    with concurrent.futures.ThreadPoolExecutor(11) as pool, single.client() as client:
        watching = pool.submit(watch)
        try:
            list(pool.map(leave, ["/generate", "/score", *["/tokenize"] * 8]))
            slow = client.post("/generate", json=BODY | {"prompt": ["从前", SLOW]})
        finally:
            ended.set()
        watching.result()
    assert (error(slow)["code"], error(slow)["field"]) == ("prompt_too_slow", "prompt.1")
    assert len(seen - before) < 5, "each text that is read is the end of a child"


def code(client: httpx.Client, path: str, within: float, **body: object) -> str:
    """Why a request that took its time was refused."""
    began = time.monotonic()
    answer = client.post(path, json=body)
    assert time.monotonic() - began < within
    assert answer.status_code == (429 if answer.json()["error"]["code"] == "queue_full" else 503)
    assert int(answer.headers["Retry-After"]) >= 1
    return answer.json()["error"]["code"]


@pytest.mark.slow
def test_texts_that_wait_to_be_read_are_bounded_in_number_and_time(start):
    server = start("--request-timeout", "3", "--tokenize-queue", "1")
    with concurrent.futures.ThreadPoolExecutor(3) as pool, server.client() as client:
        codes = pool.map(lambda _: code(client, "/tokenize", 50, text=SLOW), range(3))  # one is read, one waits
        assert sorted(codes) == ["queue_full", "timeout", "timeout"]


@pytest.mark.slow
def test_time_runs_out_wherever_a_request_is(start):
    server = start("--request-timeout", "0.3")
    with server.client() as client:

        def reason(**body: object) -> str:
            """Why a generation ended; on a busy machine there may be no token in time, and then no answer either."""
            return until(lambda: client.post("/generate", json=BODY | body).json().get("choices"))[0]["finish_reason"]

        assert code(client, "/tokenize", 5, text=SLOW) == "timeout"
        for path in ("/generate", "/works"):
            assert code(client, path, 5, prompt=SLOW) == "timeout"
        assert code(client, "/generate", 5, prompt=SLOW, timeout=0.1) == "timeout"
        assert code(client, "/score", 5, text=SLOW) == "timeout"
        assert code(client, "/score", 5, token_ids=[5] * 16_384) == "timeout"
        echo = {"model": "cpm-embedded", "prompt": [[5] * 8000] * 16, "truncate_prompt": True, "max_tokens": 0}
        assert code(client, "/v1/completions", 5, **echo, echo=True, logprobs=0) == "timeout"
        until(lambda: idle(server))
        assert reason(timeout=0.0001) == "timeout"  # the client's own time: what there is, be it nothing
        assert reason(max_new_tokens=16_000) == "timeout"
        until(lambda: client.post("/tokenize", json={"text": "从前"}).status_code == 200)


def test_a_body_must_say_that_it_is_json(client):
    response = client.post("/generate", content=json.dumps(BODY), headers={"Content-Type": "text/plain"})
    assert 400 <= response.status_code < 500  # a web page may send this to anybody without asking


def test_a_foreign_host_is_not_answered(client):
    refused = client.get("/openapi.json", headers={"Host": "evil.example"})
    assert refused.status_code == 421
    assert "--allowed-host evil.example" in error(refused)["message"]
    assert client.get("/metrics", headers={"Host": "evil.example"}).status_code == 421
    assert client.get("/openapi.json", headers={"Host": "localhost:8000"}).status_code == 200
    assert client.get("/openapi.json", headers={"Host": "[::1]:8000"}).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
def test_health_is_answered_for_any_host_and_for_none(server, client, path):
    assert client.get(path, headers={"Host": "10.0.0.7:8000"}).status_code == 200
    assert raw(server, f"GET {path} HTTP/1.0\r\n\r\n".encode()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/", "/health/live", "/health", "/metrics", "/v1/models", "/works", "/settings"])
def test_head_is_answered_as_get_without_a_body(client, path):
    answer, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (answer.status_code, b"")
    assert head.headers["Content-Type"] == answer.headers["Content-Type"]


def test_head_of_what_takes_only_post_is_refused(client):
    assert client.head("/generate").status_code == 405


def test_a_final_slash_changes_nothing(client):
    assert client.get("/v1/models/").json() == client.get("/v1/models").json()
    assert client.post("/generate/", json=BODY).status_code == 200


def test_a_body_without_a_content_type_is_taken_for_json_unless_a_web_page_sends_it(client):
    body = json.dumps(BODY)
    form = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl -d says
    for path in ("/generate", "/v1/completions"):
        sent = body if path == "/generate" else json.dumps({"model": "cpm-embedded", "prompt": "从前", "max_tokens": 2})
        assert client.post(path, content=sent).status_code == 200
        assert client.post(path, content=sent, headers=form).status_code == 200
        for headers in (form | {"Origin": "https://evil.example"}, {"Content-Type": "text/plain"}):
            refused = client.post(path, content=sent, headers=headers)
            assert refused.status_code in (400, 422)
            assert "Content-Type: application/json" in refused.json()["error"]["message"]


def test_an_unknown_address_under_v1_is_told_what_exists(client):
    assert "/v1/completions" in client.post("/v1/engines/x/completions").json()["error"]["message"]


def test_unknown_addresses_and_methods_have_the_same_shape(client):
    assert error(client.get("/nothing"))["code"] == "not_found"
    response = client.get("/generate")
    assert response.status_code == 405
    assert error(response)["code"] == "method_not_allowed"
    assert response.headers["Allow"] == "POST"
    assert client.get("/v1/nothing").json()["error"]["type"] == "not_found_error"


def test_every_answer_has_security_headers(client):
    for response in (client.get("/health/live"), client.get("/nothing"), client.post("/generate", json={})):
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["X-Request-Id"]
        assert "server" not in response.headers
        assert "access-control-allow-origin" not in response.headers


def test_cross_origin_requests_need_a_setting(single):
    with single.client() as client:
        preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}
        assert client.options("/generate", headers=preflight).headers["Access-Control-Allow-Origin"] == ORIGIN
        refused = client.post("/generate", json={}, headers={"Origin": ORIGIN})
        assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN
        everything = {"Access-Control-Request-Headers": "authorization,content-type,x-stainless-os,x-stainless-lang"}
        allowed = client.options("/v1/completions", headers=preflight | everything)
        assert "x-stainless-os" in allowed.headers["Access-Control-Allow-Headers"]
        gate = client.post("/generate", json=BODY, headers={"Origin": ORIGIN, "Host": "evil.example"})
        assert gate.status_code == 421
        assert gate.headers["Access-Control-Allow-Origin"] == ORIGIN
        stranger = client.post("/generate", json={}, headers={"Origin": "https://other.example"})
        assert "Access-Control-Allow-Origin" not in stranger.headers


def test_prompts_are_logged_only_where_asked(server, single):
    for each in (server, single):
        with each.client() as client:
            assert client.post("/generate", json=BODY | {"prompt": "秘密花园"}).status_code == 200
            assert client.post("/generate", json=BODY | {"prompt": "秘密花园", "n": 0}).status_code == 422
            marker = client.get("/health/live").headers["X-Request-Id"]
        until(lambda each=each, marker=marker: marker in each.log)
    assert "秘密花园" not in server.log
    assert "秘密花园" in single.log
