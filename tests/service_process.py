"""``cpm-gen serve`` as a process of its own on a free port of 127.0.0.1, and its clients."""

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

from tests.processes import with_death_signal
from tests.waiting import PATIENCE, until

ORIGIN = "https://page.example"
WINDOW = 511  # tokens in the shared server's window, whatever the embedded model's positions


class Server:
    """A child process that runs ``cpm-gen serve`` with the given flags. Its standard output and error are collected as lines."""

    def __init__(self, *flags: str, environment: dict[str, str] | None = None, ready: bool = True) -> None:
        """Start it, and wait for its address unless ``ready`` is false. Its database is in a temporary folder by default."""
        self._data = tempfile.TemporaryDirectory()
        env = {k: v for k, v in os.environ.items() if not k.startswith("CPM_GEN_")}
        env |= {"PYTHONUNBUFFERED": "1", "XDG_DATA_HOME": self._data.name} | (environment or {})
        self.process = subprocess.Popen(
            with_death_signal([sys.executable, "-m", "cpm_gen", "serve", "--port", "0", *flags]),
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
            try:
                self.await_ready()
            except BaseException:
                self.close(grace=0.0)
                raise

    def _read(self, name: str, stream: Any) -> None:
        for line in stream:
            self.lines[name].append(line.rstrip("\n"))

    def await_ready(self) -> None:
        """Wait for the line that contains the address."""
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
        """Return a new HTTP client."""
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, **options)

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples."""
        with self.client() as client:
            text = client.get("/metrics").text
        return sum(float(v) for v in re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    def children(self) -> list[int]:
        """Return the process ids of the children that its main thread started."""
        return [int(p) for p in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def all_children(self) -> list[int]:
        """Return the process ids of the children that any of its threads started."""
        found: list[int] = []
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # the thread has ended
                found += map(int, task.read_text().split())
        return found

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end, and return its exit status."""
        status = self.process.wait(PATIENCE)
        for reader in self._readers:
            reader.join(5)
        return status

    def close(self, grace: float = 40.0) -> None:
        """End it with SIGTERM, or with SIGKILL if it still runs after ``grace`` seconds."""
        try:
            if self.process.poll() is None:
                self.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(grace)
        finally:
            self.process.kill()
            self.wait()
            for stream in (self.process.stdout, self.process.stderr):
                assert stream is not None
                stream.close()
            self._data.cleanup()


@contextlib.contextmanager
def serving(*flags: str) -> Iterator[Server]:
    """Run a server that several tests share, and check at its end that its log has no traceback."""
    with contextlib.closing(Server(*flags)) as server:
        yield server
    assert "Traceback" not in server.log, server.log


@pytest.fixture(scope="session", autouse=True)
def direct() -> Iterator[None]:
    """Let clients connect without a proxy, whatever the environment says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "*")
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server for this test run."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    if initdb is None:
        pytest.skip("needs PostgreSQL's programs")
    programs = Path(initdb).resolve().parent
    user = "postgres" if os.getuid() == 0 else None  # it refuses to run as root
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))  # pytest's folders are closed to other users
        if user:
            shutil.chown(folder, user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data = folder / "data"
        log = stack.enter_context((folder / "log").open("wb"))
        options: dict[str, Any] = {"user": user, "cwd": folder, "stdout": log, "stderr": log}
        initialize = [
            programs / "initdb",
            "-D",
            data,
            "-A",
            "trust",
            "-U",
            "cpm",
            "-N",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
        ]
        subprocess.run(initialize, **options, check=True)
        command = [programs / "postgres", "-D", data, "-p", port, "-k", folder]
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        server = stack.enter_context(subprocess.Popen(with_death_signal([*command, *settings], "QUIT"), **options))
        stack.callback(server.send_signal, signal.SIGQUIT)  # the immediate shutdown
        ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "cpm", "-d", "postgres"]
        until(lambda: server.poll() is not None or subprocess.run(ready).returncode == 0, every=0.1)
        assert server.poll() is None, (folder / "log").read_text()
        yield f"postgresql+psycopg://cpm@127.0.0.1:{port}/postgres"


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    """Start servers that end with the test."""
    with contextlib.ExitStack() as stack:

        def start(*flags: str, **options: Any) -> Server:
            return stack.enter_context(contextlib.closing(Server(*flags, **options)))

        yield start


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server with smaller limits than the defaults. Tests share it, so none may change what it stores or serves."""
    with serving(
        "--max-body", "1000000", "--max-prompt-chars", "150000", "--keep-alive", "0.3", "--window-limit", str(WINDOW)
    ) as server:  # fmt: skip
        yield server


@pytest.fixture(scope="session")
def single() -> Iterator[Server]:
    """A server with one slot, a queue of one and short timeouts. Tests share it and leave it idle."""
    with serving(
        "--batch", "1", "--queue", "1", "--keep-alive", "0.2", "--body-timeout", "0.5", "--tokenize-timeout", "1.5",
        "--cors-origin", ORIGIN, "--log-prompts",
    ) as server:  # fmt: skip
        yield server


def idle(server: Server) -> bool:
    """Return whether no text is generated and none is queued."""
    return server.metric("cpm_running_sequences") == server.metric("cpm_queue_depth") == 0


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Yield the name and data of each server-sent event."""
    name = "message"
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, json.loads(line[6:])
        elif not line:
            name = "message"


def stream(client: httpx.Client, **body: Any) -> list[tuple[str, Any]]:
    """Return all events of a streamed generation."""
    with client.stream("POST", "/generate", json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return list(events(response.iter_lines()))


def error(response: httpx.Response) -> dict[str, Any]:
    """Check the shape of an error response, and return its ``error`` object."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "field"}
    return body["error"]
