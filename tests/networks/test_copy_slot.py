"""A slot that was copied holds what encoding again would hold, on every backend."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.networks.cuda_graphs.layer_ops import TorchOps
from cpm_gen.networks.cuda_graphs.model import GraphedModel
from cpm_gen.networks.interface import Segment
from cpm_gen.networks.native import library
from cpm_gen.networks.native.model import NativeModel
from cpm_gen.networks.torch.load_weights import load_into
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.parallel.group import TensorParallel
from tests.random_networks import random_checkpoint

# heads of 20, and positions that are no multiple of a tile
SIZE = ModelSize(layers=2, hidden=60, heads=3, vocabulary=120, positions=150)
IDS = [(7 * i + i // 9) % 120 for i in range(150)]
FORMS = [("float32", None), ("bfloat16", None), ("int8", None), ("float32", "int8"), ("int8", "int8")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_checkpoint(tmp_path_factory.mktemp("network"), SIZE)


def torch_model(folder: Path) -> TorchModel:
    model = TorchModel(SIZE, TensorParallel(), dtype=torch.float32, device=torch.device("cpu"))
    load_into(model, open_checkpoint(folder), rank=0, degree=1)
    return model


def check(model: Any, *, exact: bool) -> None:
    """Both slots go on with tokens of their own after the copy; the copied one as if it had been encoded there."""
    cache = model.make_cache(3)
    other = [(i + 1) % 120 for i in IDS]
    for length in (1, 63, 64, 65, 100):
        # what the target held before does not matter
        model.next_logits([Segment(other[:120], 0, 2)], cache)
        model.next_logits([Segment(IDS[:length], 0, 0)], cache)
        model.copy_slot(cache, 0, 2, length)
        for step in range(3):
            at = length + step
            segments = [Segment([IDS[at]], at, 0), Segment([other[at]], at, 2)]
            found = model.next_logits(segments, cache)
            contexts = (IDS[: at + 1], IDS[:length] + other[length : at + 1])
            want = torch.cat([model.next_logits([Segment(context)], None) for context in contexts])
            if exact:
                assert torch.equal(found, want), (length, step)
            else:
                torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)


def test_a_copied_slot_of_the_torch_network(folder: Path) -> None:
    check(torch_model(folder), exact=False)


def test_a_copied_slot_of_the_graphs(folder: Path) -> None:
    check(GraphedModel(torch_model(folder), TorchOps()), exact=False)


@pytest.mark.skipif(library.library_path() is None, reason="the native kernels were not built")
@pytest.mark.parametrize(("form", "kv_form"), FORMS)
def test_a_copied_slot_of_the_native_kernels(folder: Path, form: str, kv_form: str | None) -> None:
    for kernels in library.kernels():
        model = NativeModel(SIZE, TensorParallel(), form=form, kv_form=kv_form, threads=1, kernels=kernels)
        model.load(open_checkpoint(folder))
        check(model, exact=True)


@pytest.mark.parametrize("past", [True, False])
def test_a_copied_slot_of_an_onnx_file(folder: Path, tmp_path: Path, past: bool) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    from cpm_gen.networks.onnx.export import export_onnx
    from cpm_gen.networks.onnx.model import OnnxModel

    file = tmp_path / "model.onnx"
    export_onnx(open_checkpoint(folder), file, past=past)
    check(OnnxModel(file, SIZE, TensorParallel(), 1), exact=False)
