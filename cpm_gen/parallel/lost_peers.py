"""Connections to other machines that break when nothing answers.

By default a rank whose network fails waits minutes for a collective, and without end for the next plan. TCP detects a lost peer only with
keepalive or a user timeout, and neither gloo nor torch's store sets them.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

LOST = 30  # seconds without an answer after which a connection breaks

_DESCRIPTORS = Path("/proc/self/fd")


@contextlib.contextmanager
def notice_lost_peers() -> Iterator[None]:
    """TCP connections of this process that begin in the block break after :data:`LOST` seconds without an answer.

    gloo makes its sockets itself, so they are found by their file descriptors. Linux only; elsewhere nothing changes.
    """
    before = _sockets()
    yield
    for name, number in _sockets().items():
        if name in before:
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as connection:
            if connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6):
                connection.getpeername()  # OSError: it listens
                _limit(connection)


def _sockets() -> dict[str, int]:
    """A descriptor of each socket, by the socket's name: numbers of descriptors are used again."""
    found = {}
    with contextlib.suppress(OSError):
        for path in _DESCRIPTORS.iterdir():
            with contextlib.suppress(OSError):  # the descriptor of this listing
                name = str(path.readlink())
                if name.startswith("socket:"):
                    found[name] = int(path.name)
    return found


def _limit(connection: socket.socket) -> None:
    """While nothing is sent, ask every few seconds; data that is sent must be acknowledged in time."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, LOST // 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, LOST // 6)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST * 1000)
