"""Which sockets break when nothing answers. tests/process/test_nodes.py pulls out the cable."""

import socket
import sys

import pytest

from cpm_gen.parallel.lost_peers import LOST, notice_lost_peers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux's")


def limits(connection: socket.socket) -> tuple[int, int]:
    """Whether a connection asks for a sign of life, and for how many milliseconds data may stay unacknowledged."""
    return (
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
    )


def test_only_connections_that_begin_in_the_block_are_limited() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as before,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        left, right = socket.socketpair()
        with left, right, notice_lost_peers():
            begun = socket.create_connection(listener.getsockname())
            late = socket.create_server(("127.0.0.1", 0))
        with begun, late:
            assert limits(begun) == (1, LOST * 1000)
            idle, every, count = (
                begun.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            )
            assert idle + every * count == LOST
            for unlimited in (before, other, late):
                assert limits(unlimited) == (0, 0)
            begun.sendall(b"still open")


def test_without_a_list_of_descriptors_nothing_changes(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr("cpm_gen.parallel.lost_peers._DESCRIPTORS", tmp_path / "missing")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with notice_lost_peers():
            begun = socket.create_connection(listener.getsockname())
        with begun:
            assert limits(begun) == (0, 0)
