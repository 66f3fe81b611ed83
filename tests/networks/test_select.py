"""Which kernels run, what is said of it, and where --profile says that time went."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import cpm_gen
from cpm_gen.cli.main import main
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import ConfigError
from cpm_gen.networks.native import library
from cpm_gen.networks.native.model import NativeModel
from cpm_gen.networks.select import BackendChoice, choose_backend
from cpm_gen.networks.torch.model import TorchModel
from tests.random_networks import random_checkpoint


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation without a compiler."""
    library.load_library.cache_clear()
    monkeypatch.setattr(library, "library_path", lambda: None)
    yield
    library.load_library.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return random_checkpoint(tmp_path / "network")


def test_a_cpu_runs_the_native_kernels_unless_told(folder: Path) -> None:
    with cpm_gen.load(folder) as llm:
        assert isinstance(llm.engine.loaded.runner.network, NativeModel)
        assert llm.engine.loaded.runner.network.kernels == library.kernels()[0]
        assert llm.notes == []
    for options in ({"kernels": "torch"}, {"dtype": "float16"}):
        with cpm_gen.load(folder, **options) as llm:
            assert isinstance(llm.engine.loaded.runner.network, TorchModel)
            assert llm.notes == []


@pytest.mark.parametrize("options", [{}, {"quantize": "int8"}, {"quantize": "int8", "dtype": "float16"}])
def test_without_the_library_torch_computes_and_says_so(no_library: None, folder: Path, options: Any) -> None:
    with cpm_gen.load(folder, **options) as llm:
        assert isinstance(llm.engine.loaded.runner.network, TorchModel)
        (note,) = llm.notes
        assert "not built" in note and "torch computes" in note


def test_what_cannot_be_granted_is_an_error(no_library: None, folder: Path) -> None:
    with pytest.raises(ConfigError, match="not built"):
        cpm_gen.load(folder, kernels="native")


def test_float16_is_not_the_native_kernels(folder: Path) -> None:
    with pytest.raises(ConfigError, match="not float16"):
        cpm_gen.load(folder, dtype="float16", kernels="native")


@pytest.mark.parametrize("options", [{"kernels": "torch"}, {"dtype": "float16"}])
def test_keys_and_values_in_bytes_are_refused_where_torch_computes(folder: Path, options: Any) -> None:
    with pytest.raises(ConfigError, match="kv_cache int8 needs the native CPU kernels, but"):
        cpm_gen.load(folder, kv_cache="int8", **options)


def choose(options: ModelOptions, device: torch.device, degree: int = 1, *, triton: bool = True) -> BackendChoice:
    return choose_backend(options, device, degree, native_missing=None, triton=triton)


def test_a_gpu_replays_graphs_where_asked_to() -> None:
    gpu, asked = torch.device("cuda", 0), ModelOptions(kernels="graphs")
    assert choose(asked, gpu).name == "cuda_graphs"
    for kernels in ("auto", "torch"):
        assert choose(ModelOptions(kernels=kernels), gpu).name == "torch"
    refused = [
        (asked, torch.device("cpu"), 1, "the device is cpu"),
        (asked, gpu, 2, "2 ranks"),
        (ModelOptions(kernels="graphs", decoder="recompute"), gpu, 1, "decoder is recompute"),
    ]
    for options, device, degree, reason in refused:
        with pytest.raises(ConfigError, match=reason):
            choose(options, device, degree)
    with pytest.raises(ConfigError, match="Triton is not installed"):
        choose(asked, gpu, triton=False)


def test_graphs_on_a_cpu_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="one GPU"):
        cpm_gen.load(folder, kernels="graphs", device="cpu")


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_profile_says_where_the_time_went(kernels: str, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    assert main(["generate", "明月", "--max-new-tokens", "9", "--seed", "1", "--profile", "--kernels", kernels]) == 0
    said = capsys.readouterr().err
    assert re.search(r"s in 9 steps of [\d.]+ ms", said)
    parts = dict(re.findall(r"^  ([A-Za-z ]+?) +([\d.]+)%", said, re.MULTILINE))
    known = {"weights", "attention", "head", "norms and embedding"} if kernels == "native" else {"network"}
    assert parts.keys() == known | {"sampling", "communication", "Python"}
    assert sum(map(float, parts.values())) == pytest.approx(100, abs=1)
    assert torch.get_num_threads() == threads
