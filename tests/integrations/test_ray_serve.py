"""cpm-gen on Ray Serve: two replicas on this machine under load, one of them killed; and what is refused before anything starts."""

import collections
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import yaml

from cpm_gen.errors import ConfigError
from cpm_gen.works.storage.store import Store
from cpm_gen.works.storage.tables import works
from tests.processes import PROC, linux
from tests.service_process import PATIENCE, until
from tests.works_client import create, follow, grown, joined, look, settled, undisturbed, written

pytest.importorskip("ray.serve")
FILE = Path(__file__).parents[2] / "configs" / "ray" / "serve.yaml"
LONG = 5 * PATIENCE  # seconds; Ray starts a dozen processes
CLIENTS = 6
SAMPLED = {"temperature": 0.9, "top_k": 40, "max_new_tokens": 600}
# one cluster of its own, whose processes a busy machine runs: with Ray's niceness and deadlines it restarts its own proxy
ENVIRONMENT = {
    **os.environ,
    "RAY_ADDRESS": "local",
    "RAY_worker_niceness": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"replicas": 2}, "replicas share works over PostgreSQL"),
        ({"replicas": "2-1"}, "replicas must be a number such as 2, or least and most such as 1-4, not 2-1"),
        ({"replicas": 0}, "replicas must be"),
        ({"bach": 4}, "batch"),
        ({"batch": "many"}, "--batch"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_a_replica_starts(arguments: dict[str, Any], words: str):
    from cpm_gen.integrations.ray_serve import app

    with pytest.raises(ConfigError, match=words):
        app(arguments)


@pytest.mark.parametrize(
    ("places", "unheld", "wanted"),
    [([], [], 1), ([0, 0], [0, 0], 1), ([4, 4], [0, 0], 2), ([4, 5], [0, 0], 3), ([4, 4], [9, 9], 5)],
)
def test_replicas_are_wanted_for_texts_and_works_that_wait(places: list[int], unheld: list[int], wanted: int):
    from ray.serve.config import AutoscalingConfig, AutoscalingContext

    from cpm_gen.integrations.ray_serve import autoscaling, wanted_replicas

    config = AutoscalingConfig(**autoscaling(1, 9, 4))
    names = dict.fromkeys(AutoscalingContext.__init__.__annotations__)
    names.pop("return", None)
    stats = {name: dict(enumerate(values)) for name, values in (("places", places), ("unheld", unheld)) if values}
    context = AutoscalingContext(**{**names, "aggregated_metrics": stats, "config": config})
    assert wanted_replicas(context) == (wanted, {})


def descendants(pid: int) -> Iterator[int]:
    for task in (PROC / str(pid) / "task").glob("*/children"):
        try:
            for child in map(int, task.read_text().split()):
                yield child
                yield from descendants(child)
        except OSError:  # it has ended
            continue


def replicas(pid: int) -> list[int]:
    """Process ids of the replicas of a ``serve run``."""
    found = []
    for child in descendants(pid):
        try:
            if b"ray::ServeReplica" in (PROC / str(child) / "cmdline").read_bytes():
                found.append(child)
        except OSError:
            continue
    return found


class Load:
    """Clients that write short texts one after the other. ``outcomes``: how many requests ended how."""

    def __init__(self, url: str, count: int) -> None:
        self.outcomes: collections.Counter[str] = collections.Counter()
        self._ended = threading.Event()
        self._url = url
        self._threads = [threading.Thread(target=self._run, args=[number]) for number in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        while not self._ended.is_set():
            body = {"prompt": "春江潮水", "max_new_tokens": 24, "seed": number}
            with httpx.Client(base_url=self._url, timeout=PATIENCE, trust_env=False) as client:
                try:
                    response = client.post("/generate", json=body)
                    outcome = str(response.status_code)
                    if response.status_code == 200 and len(response.json()["choices"][0]["token_ids"]) != 24:
                        outcome = "incomplete"
                except httpx.HTTPError as failure:
                    outcome = type(failure).__name__
            self.outcomes[outcome] += 1

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE)


def failed(outcomes: collections.Counter[str]) -> int:
    return outcomes.total() - outcomes["200"]


class Follower:
    """Follows a work to its end; where its stream is cut off, it continues after the last event that it got. ``cut``: how often."""

    def __init__(self, url: str, id: str) -> None:
        self.events: list[tuple[str, str, Any]] = []
        self.cut = 0
        self._url, self._id = url, id
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not any(name == "done" for _, name, _ in self.events):
            last = self.events[-1][0] if self.events else None
            with httpx.Client(base_url=self._url, timeout=PATIENCE, trust_env=False) as client:
                try:
                    for event in follow(client, self._id, last):
                        self.events.append(event)
                except (httpx.HTTPError, AssertionError):  # AssertionError: a status of 5xx
                    self.cut += 1

    def text(self) -> list[tuple[str, list[int]]]:
        """Text and token ids, when the work is finished."""
        self._thread.join(LONG)
        return [joined(self.events)]


@linux
@pytest.mark.slow
def test_killing_one_of_two_replicas_under_load_loses_no_work(
    begin: Callable[..., subprocess.Popen[Any]], postgres: str, tmp_path: Path
):
    Store(postgres).close()
    engine = sa.create_engine(postgres)
    with engine.begin() as connection:
        connection.execute(works.delete())
    engine.dispose()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    config["http_options"]["port"] = port
    (application,) = config["applications"]
    application["args"] |= {"replicas": 2, "database": postgres, "batch": 8, "threads": 1, "work_lease": 3}
    (tmp_path / "ray-serve.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with (tmp_path / "log").open("w") as log:
        command = [str(Path(sys.executable).with_name("serve")), "run", str(tmp_path / "ray-serve.yaml")]
        process = begin(command, stdout=log, stderr=log, env=ENVIRONMENT, cwd=tmp_path)
        try:
            run(process, f"http://127.0.0.1:{port}")
        except BaseException:
            print((tmp_path / "log").read_text()[-6000:])
            raise
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                for child in list(descendants(process.pid)):
                    os.kill(child, signal.SIGKILL)


def run(process: subprocess.Popen[Any], url: str) -> None:
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:

        def healthy() -> bool:
            assert process.poll() is None
            try:
                return client.get("/health/ready").status_code == 200
            except httpx.HTTPError:
                return False

        until(healthy, LONG, every=1.0)
        until(lambda: len(replicas(process.pid)) == 2, LONG, every=0.5)
        load = Load(url, CLIENTS)
        try:
            ids = {seed: create(client, **SAMPLED, seed=seed)["id"] for seed in range(4)}
            for id in ids.values():
                grown(client, id, 10)
            followers = [Follower(url, id) for id in ids.values()]
            until(lambda: all(follower.events for follower in followers), LONG)
            first, second = replicas(process.pid)
            os.kill(first, signal.SIGKILL)
            until(lambda: len(replicas(process.pid)) == 2 and first not in replicas(process.pid), LONG, every=0.5)
            for id in ids.values():
                settled(client, id)
            then = load.outcomes.copy()
            until(lambda: load.outcomes["200"] > then["200"] + 10, LONG)  # the service goes on
        finally:
            load.end()
        assert second in replicas(process.pid)
        for follower, (seed, id) in zip(followers, ids.items(), strict=True):
            done = look(client, id)
            assert (done["state"], done["error"]) == ("finished", None)
            assert written(done) == undisturbed(client, **SAMPLED, seed=seed)
            assert follower.text() == written(done), "streamed through Ray's proxy, each token once"
    cut = [follower.cut for follower in followers]
    print("requests while a replica was killed:", dict(load.outcomes), "streams of works cut off:", cut)
    # requests that the killed replica had are answered with an error or cut off; with two replicas again, none is
    assert failed(load.outcomes) == failed(then)
    assert not {o for o in load.outcomes if not re.fullmatch(r"200|5\d\d|RemoteProtocolError|ReadError", o)}
