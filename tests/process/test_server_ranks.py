"""A rank dies, or hangs: waiting clients hear of it, readiness turns 503, and where asked the model is loaded again."""

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.process.test_shutdown import begin
from tests.service_process import Server, error, serving, until

BODY = {"prompt": "从前", "max_new_tokens": 20, "seed": 1}


def ranks(server: Server) -> list[int]:
    """Process ids of the other ranks."""
    return [
        p for p in server.all_children() if b"cpm_gen.runtime.rank_worker" in Path(f"/proc/{p}/cmdline").read_bytes()
    ]


def answer(server: Server, path: str) -> int:
    with server.client() as client:
        return client.get(path).status_code


@pytest.fixture
def pair(start):
    return start("--tensor-parallel", "2", "--stuck-after", "3", "--probe-after", "1")


@pytest.fixture(scope="module")
def restarting():
    with serving("--tensor-parallel", "2", "--stuck-after", "3", "--probe-after", "1", "--restart-workers") as server:
        yield server


def expect_loss(server: Server, harm, code: str) -> None:
    found: list = []
    thread = begin(server, found, max_new_tokens=16_000)
    harm()
    thread.join()
    assert found[-1] is None
    name, data = found[-2]
    assert name == "error"
    assert data["error"]["code"] == code
    assert all(name == "token" for name, _ in found[:-2] if name != "window")


@pytest.mark.slow
def test_when_a_rank_dies_clients_hear_of_it_and_readiness_says_so(pair):
    [rank] = ranks(pair)
    expect_loss(pair, lambda: os.kill(rank, signal.SIGKILL), "engine_failed")
    until(lambda: answer(pair, "/health/ready") == 503)
    assert answer(pair, "/health/live") == 200
    with pair.client() as client:
        refused = client.post("/generate", json=BODY)
        assert refused.status_code == 503
        assert error(refused)["code"] == "engine_down"
    assert "signal 9" in pair.log
    assert pair.metric("cpm_ready") == 0
    assert pair.metric("cpm_running_sequences") == 0
    pair.signal()
    assert pair.wait() == 0


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGKILL, "engine_failed", id="dies", marks=pytest.mark.slow),
        pytest.param(signal.SIGSTOP, "engine_stuck", id="hangs", marks=pytest.mark.slow),
    ],
)
def test_with_restart_workers_it_writes_again(restarting, number, code):
    with restarting.client() as client:
        before = client.post("/generate", json=BODY).json()["choices"]
    restarts = restarting.metric("cpm_engine_restarts_total")
    [rank] = ranks(restarting)
    expect_loss(restarting, lambda: os.kill(rank, number), code)
    until(lambda: answer(restarting, "/health/ready") == 200)
    assert ranks(restarting) != [rank]
    with restarting.client() as client:
        assert client.post("/generate", json=BODY).json()["choices"] == before
    assert restarting.metric("cpm_engine_restarts_total") == restarts + 1


@pytest.mark.slow
def test_a_rank_that_dies_while_nothing_is_written_is_noticed_too(restarting):
    [rank] = ranks(restarting)
    os.kill(rank, signal.SIGKILL)
    until(lambda: answer(restarting, "/health/ready") == 503)
    until(lambda: answer(restarting, "/health/ready") == 200)
    with restarting.client() as client:
        assert client.post("/generate", json=BODY).status_code == 200


@pytest.mark.slow
def test_who_does_not_stream_gets_an_answer_too(restarting):
    import threading

    answers: list[httpx.Response] = []

    def ask() -> None:
        with restarting.client() as client:
            answers.append(client.post("/generate", json=BODY | {"max_new_tokens": 16_000}))

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: restarting.metric("cpm_running_sequences") == 1)
    os.kill(ranks(restarting)[0], signal.SIGKILL)
    thread.join()
    assert answers[0].status_code == 503
    assert error(answers[0])["code"] == "engine_failed"
    assert answers[0].headers["Retry-After"]
    until(lambda: answer(restarting, "/health/ready") == 200)
