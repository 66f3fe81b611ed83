"""Whoever leaves frees a place."""

import concurrent.futures
import time

import httpx
import pytest

from tests.service_process import idle, until

ENDLESS = {"prompt": "从前", "max_new_tokens": 16_000}


def written(server) -> float:
    return server.metric("cpm_generated_tokens_total")


def test_a_stream_that_is_left_ends_within_a_step(single):
    before = written(single)
    with single.client() as client:
        with client.stream("POST", "/generate", json=ENDLESS | {"stream": True}) as response:
            pieces = response.iter_raw()
            next(pieces)
            assert single.metric("cpm_running_sequences") == 1
        until(lambda: idle(single), patience=10)
    count = written(single)
    assert count - before < 16_000
    assert single.metric("cpm_kv_slots_used") == 0
    time.sleep(0.3)
    assert written(single) == count


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
def test_an_answer_that_nobody_waits_for_is_not_written(single, path):
    before = written(single)
    endless = {"model": "cpm-embedded", "prompt": "从前", "max_tokens": 16_000, "ignore_eos": True}
    body = ENDLESS if path == "/generate" else endless
    with httpx.Client(base_url=single.url, timeout=0.7) as client, pytest.raises(httpx.ReadTimeout):
        client.post(path, json=body)
    until(lambda: idle(single), patience=10)
    assert written(single) - before < 16_000


def test_who_waits_in_the_queue_may_leave_too(single):
    with single.client() as client, client.stream("POST", "/generate", json=ENDLESS | {"stream": True}):
        with single.client() as other, other.stream("POST", "/generate", json=ENDLESS | {"stream": True}):
            until(lambda: single.metric("cpm_queue_depth") == 1)
        until(lambda: single.metric("cpm_queue_depth") == 0, patience=10)
        assert single.metric("cpm_running_sequences") == 1
    until(lambda: idle(single))


def test_time_runs_out_in_the_queue_too(single):
    with single.client() as client, client.stream("POST", "/generate", json=ENDLESS | {"stream": True}):
        with single.client() as other:
            response = other.post("/generate", json=ENDLESS | {"timeout": 0.5})
        assert response.status_code == 200  # the client's own time: what there is, is the answer
        [choice] = response.json()["choices"]
        assert (choice["text"], choice["token_ids"], choice["finish_reason"]) == ("", [], "timeout")
    until(lambda: idle(single))


@pytest.mark.slow
def test_two_hundred_clients_that_leave_leave_nothing_behind(start):
    server = start()

    def leave(number: int) -> None:
        body = ENDLESS | {"max_new_tokens": 10_000, "stream": number % 2 == 0}
        with httpx.Client(base_url=server.url, timeout=httpx.Timeout(0.5, connect=30)) as client:
            try:
                with client.stream("POST", "/generate", json=body) as response:
                    began = time.monotonic()
                    for _ in response.iter_raw():
                        if time.monotonic() - began > 0.5:
                            break
            except httpx.ReadTimeout:
                pass

    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        list(pool.map(leave, range(200)))
    began = time.monotonic()
    with server.client() as client:
        assert client.post("/generate", json={"prompt": "从前", "max_new_tokens": 5}).status_code == 200
    assert time.monotonic() - began < 10
    until(lambda: idle(server), patience=10)
    assert server.metric("cpm_kv_slots_used") == 0
    until(lambda: server.metric("cpm_open_requests") == 1, patience=10)  # the one that asks
    assert "Traceback" not in server.log, server.log
