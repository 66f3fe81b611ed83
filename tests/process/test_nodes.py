"""One model over two machines: both launchers, and a network that fails in the middle."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.namespaces import Node, nodes
from tests.process.test_ranks import GREEDY, expected_ids
from tests.processes import PROC, TORCHRUN, children
from tests.waiting import PATIENCE, until

__all__ = ["nodes"]
pytestmark = pytest.mark.slow

Begin = Callable[..., subprocess.Popen[Any]]
PORT = 29500  # each pair of machines has its own ports


def environment(node: Node, folder: Path) -> dict[str, str]:
    """What both machines are told: gloo's interface, because their names have no address. They share the folder of works."""
    return {
        **os.environ, "GLOO_SOCKET_IFNAME": node.device, "XDG_DATA_HOME": str(folder), "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def torchrun(nodes: tuple[Node, Node], rank: int, *command: str) -> list[str]:
    """The command on one machine, as docs/how-to/nodes.md has it."""
    launch = f"--nnodes 2 --nproc-per-node 1 --node-rank {rank} --master-addr {nodes[0].address} --master-port {PORT}"
    program = [sys.executable, "-m", "torch.distributed.run", *launch.split(), "-m", "cpm_gen", *command]
    return nodes[rank].command([*program, "--threads", "1"])


def texts(
    begin: Begin, nodes: tuple[Node, Node], folder: Path, commands: list[list[str]], **variables: str
) -> list[int]:
    """The token ids that rank 0 prints when the commands run, one on each machine."""
    with (folder / "log").open("w") as log:
        for node, command in zip(reversed(nodes), reversed(commands), strict=True):
            process = begin(
                command, env=environment(node, folder) | variables, stdout=subprocess.PIPE, stderr=log, text=True
            )
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, (folder / "log").read_text()
    [line] = [line for line in out.splitlines() if line.startswith("{")]
    return json.loads(line)["token_ids"]


def test_torchrun_on_two_machines_writes_what_one_process_writes(
    nodes: tuple[Node, Node], begin: Begin, tmp_path: Path
) -> None:
    commands = [torchrun(nodes, rank, *GREEDY) for rank in (0, 1)]
    assert texts(begin, nodes, tmp_path, commands) == expected_ids()


@pytest.mark.deepspeed
def test_deepspeed_over_a_hostfile_writes_what_one_process_writes(
    nodes: tuple[Node, Node], begin: Begin, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"{node.address} slots=1\n" for node in nodes))
    launch = f"--hostfile {hosts} --no_ssh --master_addr {nodes[0].address} --master_port {PORT} --node_rank"
    program = [sys.executable, "-m", "deepspeed.launcher.runner", *launch.split()]
    words = ["--module", "cpm_gen", *GREEDY, "--threads", "1"]
    commands = [node.command([*program, str(rank), *words]) for rank, node in enumerate(nodes)]
    assert texts(begin, nodes, tmp_path, commands, DS_ACCELERATOR="cpu") == expected_ids()


class Service:
    """``cpm-gen serve`` over two machines, once for each start of its launchers."""

    def __init__(self, begin: Begin, nodes: tuple[Node, Node], folder: Path) -> None:
        self._logs = [folder / f"{rank}.log" for rank in (0, 1)]
        self.launchers = []
        for rank, log in enumerate(self._logs):
            with log.open("w") as stream:
                self.launchers.append(
                    begin(
                        torchrun(nodes, rank, "serve", "--port", "0"), env=environment(nodes[rank], folder),
                        stdout=stream, stderr=stream,
                    )
                )  # fmt: skip
        found = until(lambda: re.search(r"cpm-gen serves \S+ on (\S+)", self.log(0)) or self._ended())
        assert not isinstance(found, str), found
        self.url = found[1]

    def log(self, rank: int) -> str:
        return self._logs[rank].read_text()

    def _ended(self) -> str | None:
        return self.log(0) + self.log(1) if any(p.poll() is not None for p in self.launchers) else None

    def errors(self) -> list[str]:
        """Wait for the end on both machines; the line of error of each. No traceback is ours."""
        for launcher in self.launchers:
            assert launcher.wait(PATIENCE) == 1
        found = []
        for rank in (0, 1):
            lines = [line for line in self.log(rank).splitlines() if line.startswith("cpm-gen: ")]
            assert len(lines) == 1, self.log(rank)
            assert "cpm_gen/" not in self.log(rank).split("torch.distributed.elastic")[0], self.log(rank)
            found += lines
        return found


def test_when_the_network_fails_all_ranks_end_with_one_error_and_works_continue(
    nodes: tuple[Node, Node], begin: Begin, tmp_path: Path
) -> None:
    first = nodes[0]
    service = Service(begin, nodes, tmp_path)
    body = {"prompt": "话说", "max_new_tokens": 600, "temperature": 0, "repetition_penalty": 1.2}
    work = first.ask(f"{service.url}/works", body)["id"]
    client = begin(
        first.request(f"{service.url}/generate", body | {"max_new_tokens": 10_000, "stream": True}),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    events = [client.stdout.readline() for _ in range(9)]
    assert "event: token\n" in events
    until(lambda: first.ask(f"{service.url}/works/{work}")["usage"]["completion_tokens"] > 3)
    first.cable("down")
    rest = client.stdout.read()
    assert '"code":"engine_failed"' in rest
    assert client.wait(PATIENCE) == 0
    for rank, line in enumerate(service.errors()):
        assert line.startswith(f"cpm-gen: rank {rank} lost another rank: ")

    first.cable("up")
    again = Service(begin, nodes, tmp_path)
    finished = until(
        lambda: (
            work_ if (work_ := first.ask(f"{again.url}/works/{work}?token_ids=true"))["state"] == "finished" else None
        )
    )
    whole = first.ask(f"{again.url}/generate", body)
    assert finished["choices"][0]["token_ids"] == whole["choices"][0]["token_ids"]
    assert len(whole["choices"][0]["token_ids"]) == 600


def test_when_one_machine_is_gone_the_other_ends_with_one_error(
    nodes: tuple[Node, Node], begin: Begin, tmp_path: Path
) -> None:
    service = Service(begin, nodes, tmp_path)
    nodes[1].kill_all()
    assert (
        nodes[0].ask(f"{service.url}/generate", {"prompt": "话说"}) is None
    )  # an idle service notices it at the next step
    [line] = until(lambda: re.findall("^cpm-gen: .*", service.log(0), re.MULTILINE))
    assert "rank 0 lost another rank" in line
    assert service.launchers[0].wait(PATIENCE) == 1


def test_when_a_rank_hangs_the_service_ends(begin: Begin, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        flags = ["--port", "0", "--threads", "1", "--stuck-after", "3", "--drain-timeout", "1"]
        launcher = begin(
            [*TORCHRUN, "serve", *flags], env=os.environ | {"XDG_DATA_HOME": str(tmp_path)}, stdout=log, stderr=log
        )
    url = until(lambda: re.search(r"cpm-gen serves \S+ on (\S+)", (tmp_path / "log").read_text()))[1]
    [hanging] = [p for p in children(launcher.pid) if b"\0LOCAL_RANK=1\0" in (PROC / str(p) / "environ").read_bytes()]
    os.kill(hanging, signal.SIGSTOP)
    try:
        with httpx.Client(trust_env=False, timeout=PATIENCE) as client:
            response = client.post(f"{url}/generate", json={"prompt": "话说", "max_new_tokens": 9})
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "engine_stuck"
        until(lambda: "the engine did not end; the process ends without it" in (tmp_path / "log").read_text())
    finally:
        os.kill(hanging, signal.SIGKILL)
    assert launcher.wait(PATIENCE) == 1


def test_the_launcher_alone_starts_ranks_again() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cpm_gen", "serve",
         "--restart-workers", "--port", "0", "--threads", "1"],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert run.returncode == 1
    assert "only the launcher can start its ranks again" in run.stderr
