"""What a load decides, on machines that need not exist: no process starts and no tensor is read."""

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from cpm_gen.checkpoints.formats.torch_file import TensorRef
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import ModelOptions
from cpm_gen.engine.model_runner import SCORINGS
from cpm_gen.errors import CheckpointError, ConfigError
from cpm_gen.parallel.launchers import Launch
from cpm_gen.runtime.plan import LoadPlan, Machine, plan_load, plan_worker
from cpm_gen.runtime.rank_worker import Assignment
from tests.random_networks import SMALL, random_checkpoint

LAPTOP = Machine(cpus=8)
SERVER = Machine(cpus=64, gpus=4, triton=True)
NO_COMPILER = Machine(cpus=8, native_missing="the native kernels were not built")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("network"), degree=2)


@pytest.fixture(autouse=True)
def _nothing_starts_and_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("a plan starts no process and reads no tensor")

    monkeypatch.setattr(subprocess, "Popen", forbidden)
    monkeypatch.setattr(TensorRef, "view", forbidden)


def plan(folder: Path, machine: Machine = LAPTOP, **options: Any) -> LoadPlan:
    return plan_load(ModelOptions(model=str(folder), **options), machine)


def launched(rank: int, size: int, **other: Any) -> Machine:
    local = {"local_rank": rank, "local_size": size, **other}
    return dataclasses.replace(SERVER, launch=Launch(rank=rank, size=size, deepspeed=False, **local))


def test_a_cpu_gets_the_native_kernels_a_cache_and_scoring_slots(folder: Path) -> None:
    found = plan(folder, batch=3)
    assert found.size == SMALL
    assert (found.window.limit, found.window.hop) == (15, 7)
    assert (found.degree, found.rank, found.device) == (1, 0, torch.device("cpu"))
    assert (found.backend.name, found.notes) == ("native", ())
    assert (found.slots, found.scoring_slots) == (6, SCORINGS)
    assert found.threads == 1  # a network this small gains nothing from a second


def test_a_gpu_is_taken_where_there_is_one_with_fewer_slots(folder: Path) -> None:
    found = plan(folder, SERVER, batch=3)
    assert (found.device, found.backend.name) == (torch.device("cuda", 0), "torch")
    assert found.backend.reason == "the device is cuda:0"
    assert (found.slots, found.scoring_slots) == (5, 0)
    assert plan(folder, SERVER, device="cpu").backend.name == "native"
    assert plan(folder, SERVER, kernels="graphs").backend.name == "cuda_graphs"


def test_without_a_cache_there_are_no_slots(folder: Path) -> None:
    found = plan(folder, decoder="recompute")
    assert (found.slots, found.scoring_slots) == (0, 0)


def test_without_native_kernels_torch_computes_and_a_note_says_so(folder: Path) -> None:
    found = plan(folder, NO_COMPILER)
    assert (found.backend.name, found.backend.reason) == ("torch", "the native kernels were not built")
    assert found.notes == ("the native kernels were not built, so torch computes, more slowly",)
    assert plan(folder, NO_COMPILER, kernels="torch").notes == ()


def test_dropped_objects_are_noted(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    path = folder / "7" / "mp_rank_00_model_states.pt"
    torch.save({**torch.load(path), "path": Path("x")}, path)
    (note,) = plan(folder).notes
    assert "pathlib" in note and "dropped unseen" in note


@pytest.mark.parametrize(
    ("hidden", "cpus", "asked", "degree", "threads"),
    [
        (768, 64, None, 1, 36),  # 12 * 768**2 weights of a layer, 200,000 for each thread
        (768, 8, None, 1, 8),
        (768, 8, None, 2, 4),  # shared by the ranks
        (768, 8, 5, 2, 2),
        (768, 8, 1, 2, 1),  # at least one each
    ],
)
def test_threads_are_what_the_size_can_use_divided_over_the_ranks(
    tmp_path: Path, hidden: int, cpus: int, asked: int | None, degree: int, threads: int
) -> None:
    folder = random_checkpoint(tmp_path, ModelSize(1, hidden, 8, 8, 4))
    found = plan(folder, Machine(cpus=cpus), threads=asked, tensor_parallel=degree)
    assert found.threads == threads


def test_the_degree_is_as_asked_as_launched_or_as_saved(folder: Path) -> None:
    assert plan(folder).degree == 1
    assert plan(folder, tensor_parallel="auto").degree == 2
    assert plan(folder, tensor_parallel=4).degree == 4
    for asked in (1, 4, "auto"):
        assert plan(folder, launched(2, 4), tensor_parallel=asked).degree == 4


def test_local_ranks_get_a_gpu_each_and_rank_0_plans_for_all(folder: Path) -> None:
    found = plan(folder, SERVER, tensor_parallel=2, device="cuda:1")
    assert found.devices == (torch.device("cuda", 1), torch.device("cuda", 2))
    assert [found.for_rank(rank).device for rank in (0, 1)] == ["cuda:1", "cuda:2"]


def test_a_launched_rank_plans_for_itself(folder: Path) -> None:
    found = plan(folder, launched(2, 4, local_rank=1, local_size=2), threads=8)
    assert (found.rank, found.degree, found.devices) == (2, 4, (torch.device("cuda", 1),))
    assert found.threads == 4  # of this machine's two ranks
    assert found.for_rank(2).device == "cuda:1"


def test_a_worker_of_a_cluster_takes_the_gpus_of_a_node_not_those_of_the_machine_that_plans(folder: Path) -> None:
    options = ModelOptions(model=str(folder), tensor_parallel=2)
    assert plan_worker(options, LAPTOP, 2).devices == (torch.device("cuda", 0), torch.device("cuda", 1))
    assert plan_worker(options, SERVER, 0).device == torch.device("cpu")
    with pytest.raises(ConfigError, match="GPUs needed on one node: 2; most on a node of the Ray cluster: 1"):
        plan_worker(options, SERVER, 1)


def test_a_ranks_plan_survives_the_way_to_its_process(folder: Path) -> None:
    found = plan(folder, SERVER, tensor_parallel=2, quantize="int8", window_keep=2)
    given = Assignment(1, 2, "/tmp/x", 77, 5, found.for_rank(1))
    line = given.to_json()
    assert "\n" not in line
    assert json.loads(line)["plan"]["backend"] == "torch"
    assert Assignment.from_json(line) == given


def test_this_machine_is_detected() -> None:
    machine = Machine.detect()
    assert machine.launch is None
    assert machine.cpus >= 1
    assert machine.gpus == 0  # tests see none


@pytest.mark.parametrize(
    ("options", "machine", "message"),
    [
        ({"batch": 0}, LAPTOP, "batch must be from 1 to 65536, not 0"),
        ({"threads": 0}, LAPTOP, "threads must be from 1 to 1024, not 0"),
        ({"hidden": 64}, LAPTOP, "hidden size is 32, the settings describe a network of 64"),
        ({"window_limit": 17}, LAPTOP, "window limit must be from 1 to 16"),
        ({"window_keep": 15}, LAPTOP, "window keep must be from 0 to 14"),
        ({"window_hop": 16}, LAPTOP, "window hop must be from 1 to 15"),
        ({"device": "tpu"}, LAPTOP, "device must be cpu, cuda, cuda:N or auto"),
        ({"device": "cuda"}, LAPTOP, "rank 0 needs GPU 0, this machine has 0"),
        ({"device": "cuda:3", "tensor_parallel": 2}, SERVER, "rank 1 needs GPU 4, this machine has 4"),
        (
            {"kernels": "native"},
            NO_COMPILER,
            "kernels native needs the native CPU kernels, but the native kernels were",
        ),
        ({"kernels": "native"}, SERVER, "but the device is cuda:0"),
        ({"kernels": "native", "dtype": "float16"}, LAPTOP, "not float16"),
        ({"kv_cache": "int8", "kernels": "torch"}, LAPTOP, "kv_cache int8 needs .* but kernels is torch"),
        ({"kv_cache": "int8", "kernels": "graphs"}, SERVER, "kv_cache int8 needs .* but kernels is graphs"),
        ({"kernels": "graphs"}, LAPTOP, "needs one GPU, Triton and the cached decoder, but the device is cpu"),
        ({"kernels": "graphs", "tensor_parallel": 2}, SERVER, "but there are 2 ranks"),
        ({"kernels": "graphs", "decoder": "recompute"}, SERVER, "but the decoder is recompute"),
        ({"kernels": "graphs"}, dataclasses.replace(SERVER, triton=False), "but Triton is not installed"),
        ({"tensor_parallel": 2}, launched(0, 4), "--tensor-parallel 2 under a launcher that started 4 ranks"),
    ],
)
def test_a_mistake_is_named_before_anything_starts(
    folder: Path, options: dict[str, Any], machine: Machine, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(folder, machine, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensor_parallel": 3}, "cannot be cut for 3 ranks .* possible: 1, 2, 4, 8"),
        ({"tensor_parallel": 0}, "cannot be cut for 0 ranks"),
        ({"heads": 5}, "5 heads do not divide the hidden size 32"),
    ],
)
def test_a_network_that_cannot_be_cut_so_is_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        plan(folder, **options)
    with pytest.raises(CheckpointError, match="no such folder"):
        plan(folder / "nowhere")
