"""What a replica takes of a Ray cluster that need not exist: the real ``serve run``, with a cluster that is faked below it."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cpm_gen.config.resolve import resolve
from cpm_gen.errors import CheckpointError, ConfigError
from cpm_gen.runtime.plan import Machine
from tests.random_networks import random_checkpoint

ray = pytest.importorskip("ray")
serve = pytest.importorskip("ray.serve")
HEAD = "head:6379"


class Cluster:
    """In place of Ray's. ``gpus``: of each node; None: no cluster runs. ``calls``: what was asked of Ray, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpus: list[int] | None = None
        self.joined = False
        self.calls: list[str] = []
        self.app: Any = None
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        for name in ("init", "is_initialized", "nodes", "shutdown"):
            monkeypatch.setattr(ray, name, getattr(self, name))
        monkeypatch.setattr(serve, "run", self.run)
        monkeypatch.setattr(sys, "path", [*sys.path])  # serve run adds to it

    def init(self, address: str | None = None, namespace: str | None = None, **_: Any) -> None:
        assert not self.joined, "a second ray.init is refused"
        self.calls.append(f"init {address} {namespace}")
        if self.gpus is None and address is not None:
            raise ConnectionError("no cluster runs")
        self.joined = True

    def is_initialized(self) -> bool:
        return self.joined

    def nodes(self) -> list[dict[str, Any]]:
        assert self.joined
        self.calls.append("nodes")
        here = [{"Alive": True, "Resources": {"CPU": 8.0, **({"GPU": float(n)} if n else {})}} for n in self.gpus or []]
        return [*here, {"Alive": False, "Resources": {"GPU": 16.0}}]

    def shutdown(self) -> None:
        self.calls.append("shutdown")
        self.joined = False

    def run(self, app: Any, **_: Any) -> None:
        self.calls.append("run")
        self.app = app


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("network"))


def serve_run(monkeypatch: pytest.MonkeyPatch, *words: str) -> BaseException | None:
    """What ends ``serve run`` of the application with these words; None: it ran."""
    from click.testing import CliRunner
    from ray.serve import scripts

    monkeypatch.setattr(scripts._private_api, "serve_start", lambda **_: SimpleNamespace())
    return CliRunner().invoke(scripts.run, ["cpm_gen.integrations.ray_serve:app", *words]).exception


@pytest.mark.parametrize(
    ("gpus", "words", "bundle"),
    [
        ([0, 2, 1], [], {"GPU": 2, "CPU": 1}),
        ([0, 2], ["device=cuda:1"], {"GPU": 2, "CPU": 1}),
        ([8], ["device=cuda", "tensor_parallel=1", "threads=3"], {"GPU": 1, "CPU": 3}),
        ([0, 0], ["threads=3"], {"CPU": 6}),
    ],
)
@pytest.mark.parametrize("address", [None, HEAD])
def test_serve_run_takes_the_gpus_of_the_cluster_that_it_will_join(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, folder: Path, address: str | None, gpus: list[int], words: list[str],
    bundle: dict[str, int],
) -> None:  # fmt: skip
    cluster.gpus = gpus
    flags = ["--address", address] if address else []
    assert serve_run(monkeypatch, *flags, f"model={folder}", "tensor_parallel=2", *words) is None
    assert cluster.calls == [f"init {address or 'auto'} None", "nodes", "shutdown", f"init {address} serve", "run"]
    deployment = cluster.app._bound_deployment
    assert deployment._replica_config.placement_group_bundles == [bundle]
    assert deployment.ray_actor_options["num_gpus"] == bundle.get("GPU", 0)


@pytest.mark.parametrize(
    ("gpus", "words", "message"),
    [
        ([0, 0], ["device=cuda"], "device cuda: GPUs needed on one node: 2; most on a node of the Ray cluster: 0"),
        ([1, 1], [], "device auto: GPUs needed on one node: 2; most on a node of the Ray cluster: 1"),
        (None, ["device=cuda"], "most on a node of the Ray cluster: 0"),
    ],
)
def test_gpus_that_no_node_has_are_refused(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, folder: Path, gpus: list[int] | None, words: list[str], message: str
) -> None:  # fmt: skip
    cluster.gpus = gpus
    failure = serve_run(monkeypatch, f"model={folder}", "tensor_parallel=2", *words)
    assert isinstance(failure, ConfigError)
    assert message in str(failure)
    assert "run" not in cluster.calls
    assert not cluster.joined


def test_without_a_cluster_the_gpus_are_those_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, folder: Path
) -> None:
    monkeypatch.setattr(Machine, "detect", lambda: Machine(cpus=8, gpus=2))
    assert serve_run(monkeypatch, f"model={folder}", "tensor_parallel=2") is None
    assert cluster.calls == ["init auto None", "init None serve", "run"]
    assert cluster.app._bound_deployment.ray_actor_options["num_gpus"] == 2


def test_a_cluster_that_is_named_and_not_reached_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster
) -> None:
    assert isinstance(serve_run(monkeypatch, "--address", HEAD), ConnectionError)
    assert cluster.calls == [f"init {HEAD} None"]


@pytest.mark.parametrize(
    ("gpus", "asked", "device", "bundle"),
    [
        ([0, 2], "auto", "auto", {"GPU": 2, "CPU": 1}),
        ([0], "auto", "cpu", {"CPU": 2}),
        ([2], "cpu", "cpu", {"CPU": 2}),
        ([0], "cuda:3", "cuda", {"GPU": 2, "CPU": 1}),  # the nodes with GPUs are still to come
    ],
)
def test_an_application_that_is_built_in_the_cluster_stays_there(
    cluster: Cluster, folder: Path, gpus: list[int], asked: str, device: str, bundle: dict[str, int]
) -> None:
    from cpm_gen.integrations.ray_serve import _resources

    cluster.gpus, cluster.joined = gpus, True
    settings, found = _resources(resolve(flags={"model": str(folder), "device": asked, "tensor_parallel": 2}))
    assert (settings.model.device, found) == (device, bundle)
    assert set(cluster.calls) <= {"nodes"}


def test_a_batch_has_a_worker_for_the_gpus_of_each_node(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, folder: Path
) -> None:
    monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")  # as the module sets it, for this test alone
    from cpm_gen.batch.ray_data import RayData

    def workers(gpus: list[int], count: int | None = None, **flags: Any) -> tuple[int, dict[str, int]]:
        cluster.gpus = gpus
        found = RayData(resolve(flags={"model": str(folder), "tensor_parallel": 2, **flags}), count)
        found.close()
        return found._workers, found._resources

    assert workers([0, 3, 3]) == (2, {"num_gpus": 2})  # the third GPUs are of two nodes
    assert workers([0, 0], threads=3) == (4, {"num_cpus": 3})
    assert workers([4], device="cpu") == (8, {"num_cpus": 1})
    cluster.calls.clear()
    for gpus, count, message in (
        ([0], None, "GPUs needed on one node: 2; most on a node of the Ray cluster: 0"),
        ([3, 3], 3, "room for 2 workers of 2 GPUs, not 3"),
    ):
        with pytest.raises(ConfigError, match=message):
            workers(gpus, count, device="cuda")
        assert not cluster.joined
    cluster.calls.clear()
    with pytest.raises(CheckpointError, match="no such folder"):
        workers([4], model="/nonexistent")
    assert cluster.calls == []  # before a cluster is started
