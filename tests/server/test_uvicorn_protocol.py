"""Connections: what a client may do to one, and to all of them, before and after the application has its request."""

import contextlib
import http.client
import json
import re
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.server import uvicorn_protocol
from tests.service_process import ORIGIN, Server, error, idle, stream, until

CONNECTIONS = 4
SPARE, FILES = 64, 256  # as in cpm_gen/server/uvicorn_protocol.py
POST = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def strict() -> Iterator[Server]:
    """One with few connections, little patience with readers, and a name of its own; started with few open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        server = Server(
            "--connections", str(CONNECTIONS), "--send-timeout", "1", "--request-timeout", "1.5",
            "--allowed-host", "proxy.example", "--cors-origin", ORIGIN,
        )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    yield server
    server.close()
    assert "Traceback" not in server.log, server.log


def connect(server: Server, first: bytes = b"", *, small: bool = False) -> socket.socket:
    """A connection on which ``first`` was sent; where it is small, what is not read soon waits at the server."""
    connection = socket.socket()
    if small:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    connection.settimeout(30)
    host, port = server.url.removeprefix("http://").split(":")
    connection.connect((host, int(port)))
    connection.sendall(first)
    return connection


def rest(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    answer = b""
    try:
        while piece := connection.recv(65536):
            answer += piece
    except ConnectionResetError:
        pass
    return answer


def dribble(connection: socket.socket) -> bytes:
    """All that comes until the server closes, while it gets a byte every tenth of a second; fails if it goes on taking them."""
    connection.settimeout(0.1)
    answer, deadline = b"", time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            connection.sendall(b"x")
            piece = connection.recv(65536)
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            return answer
        if not piece:
            return answer
        answer += piece
    raise AssertionError("it would take bytes for ever")


def sockets(server: Server) -> int:
    """How many of its open files are sockets."""
    links = Path(f"/proc/{server.process.pid}/fd").iterdir()
    return sum(link.is_socket() for link in links)


def told(answer: bytes) -> tuple[bytes, str]:
    """Status and code of a refusal that closes its connection."""
    head, body = answer.split(b"\r\n\r\n")
    assert b"application/json" in head
    assert b"nosniff" in head
    assert b"connection: close" in head.lower()
    refusal = json.loads(body)["error"]
    assert set(refusal) == {"code", "message", "field"}
    return head.split()[1], refusal["code"]


def test_a_connection_without_a_request_is_closed(single):
    with connect(single) as silent:
        assert rest(silent) == b""


def test_a_head_that_comes_byte_by_byte_is_given_up(single):
    with connect(single, b"GET /health/live HTTP/1.1\r\nX: ") as slow:
        assert told(dribble(slow)) == (b"408", "body_timeout")


def test_a_second_head_has_no_more_time_than_the_first(single):
    with connect(single, b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n") as slow:
        assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")
        slow.sendall(b"GET /")
        assert told(dribble(slow)) == (b"408", "body_timeout")


def test_a_large_body_that_comes_byte_by_byte_is_given_up(single):
    with connect(single, POST + b"Content-Length: 99999999\r\n\r\n") as slow:
        assert told(dribble(slow)) == (b"413", "body_too_large")


def test_a_body_is_not_taken_for_ever_after_the_answer(single):
    head = POST.replace(b"localhost", b"evil.example") + b"Content-Length: 99999999\r\n\r\n"
    with connect(single, head) as slow:
        assert dribble(slow).startswith(b"HTTP/1.1 421 ")


def test_what_is_not_http_is_refused_as_everything_is(single):
    broken = b"Transfer-Encoding: chunked\r\n\r\n1\r\n \r\nnot a length\r\n"
    for bytes_ in (b"\x16\x03\x01 hello\r\n\r\n", POST + broken):
        with connect(single, bytes_) as connection:
            assert told(rest(connection)) == (b"400", "malformed")
    with connect(single, POST.replace(b"localhost", b"evil.example") + broken) as connection:
        assert rest(connection).startswith(
            (b"HTTP/1.1 421 ", b"HTTP/1.1 400 ")
        )  # whichever was first, and no second one


def test_open_files_suffice_for_the_connections(strict):
    limits = Path(f"/proc/{strict.process.pid}/limits").read_text()
    assert int(re.search(r"Max open files\s+(\d+)", limits)[1]) == CONNECTIONS + SPARE + FILES


def test_who_asks_for_nothing_makes_room_for_who_does(strict):
    silent = [connect(strict) for _ in range(CONNECTIONS + SPARE + 5)]
    try:
        with strict.client() as client:
            assert client.get("/health/live").status_code == 200
            assert client.get("/health/ready").status_code == 200
            assert client.post("/tokenize", json={"text": "从前"}).status_code == 200
        assert rest(silent[0]) == b""
        silent[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            silent[-1].recv(1)
    finally:
        for connection in silent:
            connection.close()


def test_as_many_connections_as_there_may_be_stay_open(strict):
    address = strict.url.removeprefix("http://")
    with contextlib.ExitStack() as stack:
        opened = [http.client.HTTPConnection(address, timeout=30) for _ in range(CONNECTIONS + SPARE)]
        for connection in opened * 2:  # the second request fails where the server has closed
            stack.callback(connection.close)
            connection.request("GET", "/health/live")
            with connection.getresponse() as response:
                assert json.loads(response.read()) == {"status": "live"}


def burst(server: Server, count: int) -> tuple[int, list[float]]:
    """Open idle connections. Returns the most sockets that the server had open, and the seconds of five health checks after them."""
    silent: list[socket.socket] = []
    most, seconds = 0, []
    try:
        for number in range(count):
            silent.append(connect(server))
            if number % 100 == 0:
                most = max(most, sockets(server))
        with server.client() as client:
            for _ in range(5):
                began = time.monotonic()
                assert client.get("/health/live", headers={"Connection": "close"}).status_code == 200
                seconds.append(time.monotonic() - began)
                most = max(most, sockets(server))
    finally:
        for connection in silent:
            connection.close()
    return most, seconds


@pytest.mark.slow
def test_a_burst_of_idle_connections_is_closed_and_logged_once(start):
    server = start("--connections", "4")
    most, _ = burst(server, 400)
    assert most <= 4 + SPARE + 10, "the listener, the loop's own and those that are being closed"
    until(lambda: "idle longest" in server.log)
    assert server.log.count("idle longest") == 1
    assert "Traceback" not in server.log


@pytest.mark.slow
def test_ten_thousand_idle_connections_do_not_hold_up_others(start):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(20_000, hard), hard))
    try:
        server = start()
        most, seconds = burst(server, 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    print(f"most sockets {most}; health in {[round(1000 * s) for s in seconds]} ms")
    assert most <= 1024 + SPARE + 40
    assert min(seconds) < 0.1
    assert max(seconds) < 5, "it was 7 s on an idle machine, and this one may be busy"
    assert server.log.count("idle longest") == 1
    assert "out of system resource" not in server.log


def test_open_requests_are_bounded_and_health_is_not_among_them(strict):
    until(lambda: strict.metric("cpm_open_requests") == 1)
    with strict.client() as client:
        waiting = [connect(strict, POST + b"Content-Length: 50\r\n\r\n{") for _ in range(CONNECTIONS)]
        try:
            refused = until(lambda: (r := client.get("/metrics")).status_code == 503 and r)
            assert error(refused)["code"] == "too_many_connections"
            assert refused.headers["Retry-After"] == "1"
            assert client.get("/health/live").status_code == 200
            assert client.get("/health/ready").status_code == 200
        finally:
            for connection in waiting:
                connection.close()
        until(lambda: client.get("/metrics").status_code == 200)


ASK = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"


def test_an_answer_that_is_not_read_does_not_keep_its_connection(strict):
    with strict.client() as client:
        whole = len(client.get("/openapi.json").content)
        before = sockets(strict)
        with connect(strict, ASK * 8, small=True) as connection:
            until(lambda: sockets(strict) > before)
            until(lambda: sockets(strict) <= before, patience=20)
            assert len(rest(connection)) < 8 * whole


def following(server: Server, client: httpx.Client) -> socket.socket:
    """A connection that follows an endless work and does not read."""
    many = {"prompt": ["从前"] * 16, "n": 8}  # events are long, as their ids tell of every text
    work = client.post("/works", json=many).json()["id"]
    follow = f"GET /works/{work}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    return connect(server, ASK + follow, small=True)


def test_a_stream_that_is_not_read_ends_with_its_connection(strict):
    with strict.client() as client:
        client.get("/health/live")
        before = sockets(strict)
        with following(strict, client):
            until(lambda: strict.metric("cpm_open_requests") == 2)
            until(lambda: strict.metric("cpm_open_requests") == 1)
            until(lambda: sockets(strict) <= before)
        [work] = client.get("/works").json()["works"]
        assert work["state"] == "running"
        assert client.delete(f"/works/{work['id']}").status_code == 204
    until(lambda: idle(strict))
    assert "a bug" not in strict.log


@pytest.mark.slow
def test_who_does_not_read_does_not_keep_the_service_from_ending(start):
    server = start("--drain-timeout", "0.5")
    with server.client() as client, following(server, client):
        time.sleep(4)
        server.signal()
        assert server.wait() == 0
    assert "Traceback" not in server.log, server.log
    assert "without completing" not in server.log


@pytest.mark.slow
def test_a_slow_reader_who_reads_gets_all(strict):
    answer = b""
    with connect(strict, ASK * 3 + ASK[:-2] + b"Connection: close\r\n\r\n", small=True) as connection:
        while piece := connection.recv(8192):
            answer += piece
            time.sleep(0.02)
    _, *answers = answer.split(b"HTTP/1.1 200 OK\r\n")
    assert len(answers) == 4
    for each in answers:
        assert json.loads(each.partition(b"\r\n\r\n")[2])["openapi"]


def test_a_generation_has_its_time(strict):
    with strict.client() as client:
        body = {"prompt": "从前", "n": 8, "max_new_tokens": 16_000}
        *tokens, (name, done) = stream(client, **body)
        assert name == "done"
        assert {choice["finish_reason"] for choice in done["choices"]} == {"timeout"}
        assert [data["finish_reason"] for _, data in tokens if data.get("finish_reason")] == ["timeout"] * 8
        assert 1.2 < done["timing"]["total"] < 20
        assert done["usage"]["completion_tokens"] > 0


def test_the_service_answers_to_its_own_names_and_to_those_it_was_given(strict):
    with strict.client() as client:
        for host, status in (
            ("proxy.example", 200), ("Proxy.Example:443", 200), ("127.0.0.1", 200), ("localhost:1", 200), ("[::1]", 200),
            ("evil.example", 421), ("proxy.example.evil.example", 421),
        ):  # fmt: skip
            response = client.get("/openapi.json", headers={"Host": host})
            assert response.status_code == status, host
        assert error(client.get("/openapi.json", headers={"Host": ""}))["code"] == "wrong_host"


def test_a_preflight_is_refused_as_everything_is(strict):
    preflight = {"Origin": "https://other.example", "Access-Control-Request-Method": "POST"}
    with strict.client() as client:
        refused = client.options("/generate", headers=preflight)
        assert refused.status_code == 400
        assert error(refused)["code"] == "cross_origin"
        assert client.options("/v1/completions", headers=preflight).json()["error"]["type"] == "invalid_request_error"
        allowed = client.options("/generate", headers=preflight | {"Origin": ORIGIN})
        assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)


def test_where_few_files_may_be_open_there_are_fewer_connections(monkeypatch):
    for files, most in ((10_000, 1024 + SPARE), (1000, 1000 - FILES), (300, 150)):
        monkeypatch.setattr(uvicorn_protocol, "raise_open_files_limit", lambda wanted, files=files: min(wanted, files))
        assert uvicorn_protocol.connections(ServeOptions()).limit.most == most
