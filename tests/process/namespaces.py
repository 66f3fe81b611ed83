"""Two machines in one: network namespaces with addresses of their own, connected by a cable that a test can pull out."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.processes import with_death_signal

_CLIENT = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], sys.argv[2].encode() or None, {"Content-Type": "application/json"})
try:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
        for line in response:
            sys.stdout.write(line.decode())
            sys.stdout.flush()
except (urllib.error.URLError, ConnectionError) as error:
    sys.exit(f"{getattr(error, 'code', 0)} {error}")
"""


def ip(*words: str) -> None:
    """Run ``ip``. Raises CalledProcessError."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Node:
    """A machine: a network namespace with one address. ``device``: its end of the cable."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address, self.device = name, address, f"{name}c"

    def command(self, words: list[str]) -> list[str]:
        """The command, run on this machine; it dies with the test run."""
        return with_death_signal(["ip", "netns", "exec", self.name, *words])

    def request(self, url: str, body: dict[str, Any] | None = None) -> list[str]:
        """The command of a client that prints the response's lines as they come."""
        return self.command([sys.executable, "-c", _CLIENT, url, json.dumps(body) if body else ""])

    def ask(self, url: str, body: dict[str, Any] | None = None) -> Any:
        """A response's JSON; None for an error or no response."""
        run = subprocess.run(self.request(url, body), capture_output=True, text=True)
        return json.loads(run.stdout) if run.returncode == 0 else None

    def cable(self, state: str) -> None:
        """Put the cable in ("up") or pull it out ("down")."""
        ip("-n", self.name, "link", "set", self.device, state)

    def kill_all(self) -> None:
        """Kill every process of this machine."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout
        for pid in listed.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), 9)


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    """Two machines that reach each other alone. Skipped where they cannot be made, with the reason."""
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2's ip")
    first, second = (Node(f"cpm{os.getpid()}{x}", f"10.213.7.{n}") for n, x in ((1, "a"), (2, "b")))
    try:
        for node in (first, second):
            ip("netns", "add", node.name)
        ip(
            "link",
            "add",
            first.device,
            "netns",
            first.name,
            "type",
            "veth",
            "peer",
            second.device,
            "netns",
            second.name,
        )
        for node in (first, second):
            ip("-n", node.name, "address", "add", f"{node.address}/24", "dev", node.device)
            ip("-n", node.name, "link", "set", "lo", "up")
            node.cable("up")
    except subprocess.CalledProcessError as error:
        _remove(first, second)
        pytest.skip(f"this machine allows no network namespaces: {error.stderr.strip()}")
    yield first, second
    _remove(first, second)


def _remove(*nodes: Node) -> None:
    for node in nodes:
        node.kill_all()
        with suppress(subprocess.CalledProcessError):
            ip("netns", "delete", node.name)
