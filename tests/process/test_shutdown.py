"""Ends: a signal drains, a second one does not wait; and no process stays behind."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from cpm_gen.config.options import ModelOptions
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.server import main
from cpm_gen.serving.service import Service
from tests.service_process import error, events, until


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def begin(server, found, **body):
    """A stream in a thread; ``found`` gets its events, and at the end None or the exception."""

    def run() -> None:
        try:
            with server.client() as client:
                body_ = {"prompt": "从前", "seed": 1, "stream": True} | body
                with client.stream("POST", "/generate", json=body_) as response:
                    for each in events(response.iter_lines()):
                        found.append(each)
            found.append(None)
        except httpx.HTTPError as broken:
            found.append(broken)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: found)
    return thread


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_lets_running_requests_finish_and_refuses_new_ones(start, number):
    server = start("--drain-timeout", "120")
    children = server.all_children()
    assert children
    found: list = []
    thread = begin(server, found, max_new_tokens=1000)
    with server.client() as client:
        client.get("/health/live")
        server.signal(number)
        refused = until(lambda: (r := client.post("/generate", json={"prompt": "从前"})).status_code == 503 and r)
        assert error(refused)["code"] == "shutting_down"
        assert refused.headers["Retry-After"]
        assert client.get("/health/ready").status_code == 503
        assert client.get("/health/live").status_code == 200
    thread.join()
    assert found[-2][0] == "done"
    assert found[-2][1]["usage"]["completion_tokens"] == 1000
    assert server.wait() == 0
    assert not any(map(alive, children))
    assert "Traceback" not in server.log, server.log


@pytest.mark.slow
def test_an_idle_service_ends_at_once(start):
    server = start("--drain-timeout", "100")
    began = time.monotonic()
    server.signal()
    assert server.wait() == 0
    assert time.monotonic() - began < 20


@pytest.mark.slow
def test_what_does_not_finish_in_time_is_cut_short_with_an_error(start):
    server = start("--drain-timeout", "0.5")
    found: list = []
    thread = begin(server, found, max_new_tokens=16_000)
    server.signal()
    thread.join()
    assert found[-1] is None
    name, data = found[-2]
    assert (name, data["error"]["code"]) == ("error", "shutting_down")
    assert server.wait() == 0
    assert "Traceback" not in server.log, server.log


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once_and_the_ranks_with_it(start):
    server = start("--tensor-parallel", "2", "--drain-timeout", "100")
    children = server.all_children()
    assert len(children) == 2  # a rank, and what reads texts
    found: list = []
    thread = begin(server, found, max_new_tokens=16_000)
    server.signal()
    until(lambda: "ending" in server.log)
    began = time.monotonic()
    server.signal()
    assert server.wait() == 128 + signal.SIGTERM
    assert time.monotonic() - began < 10
    thread.join()
    assert isinstance(found[-1], httpx.HTTPError)
    until(lambda: not any(map(alive, children)), patience=20)


@pytest.mark.slow
def test_ranks_end_with_a_service_that_drains(start):
    server = start("--tensor-parallel", "2")
    children = server.all_children()
    server.signal()
    assert server.wait() == 0
    assert not any(map(alive, children))
    assert "Traceback" not in server.log, server.log


@pytest.mark.slow
def test_when_it_is_killed_nothing_stays_behind(start):
    server = start()
    with server.client() as client, contextlib.suppress(httpx.HTTPError):
        client.post("/tokenize", json={"text": "的了我" * 40_000}, timeout=2)  # minutes of work
    children = server.all_children()
    assert len(children) == 2
    os.kill(server.process.pid, signal.SIGKILL)
    until(lambda: not any(map(alive, children)), patience=20)


def test_requests_drain_while_the_database_takes_its_time(monkeypatch):
    cut = []
    service = Service(ServeOptions(), ModelOptions())
    service.engine = SimpleNamespace(busy=1, fail_all=cut.append)
    works = SimpleNamespace(close=lambda: asyncio.sleep(60))  # a database that hangs
    monkeypatch.setattr(main, "COMMIT_SECONDS", 4.0)
    began = time.monotonic()
    assert not asyncio.run(main.drain(service, works, 4.0))
    assert 4.0 <= time.monotonic() - began < 7.2
    assert [error.code for error in cut] == ["shutting_down"]


@pytest.mark.slow
def test_a_signal_while_it_loads_ends_it(start):
    server = start("--tensor-parallel", "2", ready=False)
    until(lambda: len(server.all_children()) >= 1)
    children = server.all_children()
    server.signal()
    assert server.wait() in (0, 128 + signal.SIGTERM)
    assert server.lines["stdout"] == []
    until(lambda: not any(map(alive, children)), patience=20)
