"""A real server process on a real port of 127.0.0.1."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.waiting import PATIENCE, until

ORIGIN = "https://page.example"


class Server:
    """``cpm-gen serve`` as a child. Standard error and output are collected."""

    def __init__(self, *flags: str, environment: dict[str, str] | None = None, ready: bool = True) -> None:
        self._data = tempfile.TemporaryDirectory()  # works of its own, unless told otherwise
        env = {k: v for k, v in os.environ.items() if not k.startswith("CPM_GEN_")}
        env |= {"PYTHONUNBUFFERED": "1", "XDG_DATA_HOME": self._data.name} | (environment or {})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cpm_gen", "serve", "--port", "0", *flags],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.lines: dict[str, list[str]] = {"stdout": [], "stderr": []}
        self._readers = [
            threading.Thread(target=self._read, args=[name, getattr(self.process, name)], daemon=True)
            for name in self.lines
        ]
        for reader in self._readers:
            reader.start()
        self.url = ""
        if ready:
            self.await_ready()

    def _read(self, name: str, stream: Any) -> None:
        for line in stream:
            self.lines[name].append(line.rstrip("\n"))

    def await_ready(self) -> None:
        """Wait for the line that tells the address."""
        until(lambda: self.lines["stdout"] or self.process.poll() is not None)
        assert self.lines["stdout"], self.log
        found = re.fullmatch(r"cpm-gen serves (\S+) on (http://\S+)", self.lines["stdout"][0])
        assert found
        self.url = found[2]

    @property
    def log(self) -> str:
        """Standard error so far."""
        return "\n".join(self.lines["stderr"])

    def client(self, **options: Any) -> httpx.Client:
        """A client of its own connections."""
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, **options)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        with self.client() as client:
            text = client.get("/metrics").text
        return sum(float(v) for v in re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    def children(self) -> list[int]:
        """Process ids of its children."""
        return [int(p) for p in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def all_children(self) -> list[int]:
        """Those that any of its threads started."""
        found: list[int] = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a thread that ended meanwhile
                found += map(int, task.read_text().split())
        return found

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit status."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(5)
        return status

    def close(self) -> None:
        """End it, politely if it still knows manners."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self._data.cleanup()


@pytest.fixture(scope="session", autouse=True)
def direct() -> Iterator[None]:
    """No client asks a proxy for this machine, whatever the environment says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "*")
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server of its own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None:
        pytest.skip("needs PostgreSQL's programs")
    programs = Path(initdb).resolve().parent
    folder = Path(tempfile.mkdtemp())  # pytest's folders are closed to other users
    user = "postgres" if os.getuid() == 0 else None  # it does not run as root
    if user:
        shutil.chown(folder, user)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = str(folder / "data")
    quiet = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "check": True}
    subprocess.run(
        [programs / "initdb", "-D", data, "-A", "trust", "-U", "cpm", "-N", "-E", "UTF8", "--locale=C.UTF-8"], **quiet
    )
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    subprocess.run([programs / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start"], **quiet)
    yield f"postgresql+psycopg://cpm@127.0.0.1:{port}/postgres"
    subprocess.run([programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"], **quiet)
    shutil.rmtree(folder)


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Start servers that are ended with the test."""
    with contextlib.ExitStack() as stack:

        def start(*flags: str, **options: Any) -> Server:
            server = Server(*flags, **options)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """One with the default settings but for smaller limits, for all tests that leave it as it was."""
    server = Server("--max-body", "1000000", "--max-prompt-chars", "150000", "--keep-alive", "0.3")
    yield server
    server.close()
    assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="session")
def single() -> Iterator[Server]:
    """One with room for one text, and one that waits, and little patience; every test leaves it idle."""
    server = Server(
        "--batch", "1", "--queue", "1", "--keep-alive", "0.2", "--body-timeout", "0.5", "--tokenize-timeout", "1.5",
        "--cors-origin", ORIGIN, "--log-prompts",
    )  # fmt: skip
    yield server
    server.close()
    assert "Traceback" not in server.log, server.log


def idle(server: Server) -> bool:
    """Nothing is written and nothing waits."""
    return server.metric("cpm_running_sequences") == server.metric("cpm_queue_depth") == 0


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Server-sent events of a stream: name and data."""
    name = "message"
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])
        elif not line:
            name = "message"


def stream(client: httpx.Client, **body: Any) -> list[tuple[str, Any]]:
    """All events of a generation."""
    with client.stream("POST", "/generate", json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response.iter_lines()))


def error(response: httpx.Response) -> dict[str, Any]:
    """What a refusal says, after a look at its shape."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "field"}
    return body["error"]
