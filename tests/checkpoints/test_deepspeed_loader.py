"""DeepSpeed's own loader of Megatron checkpoints, which the original ran on, cuts and joins as ours does."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cpm_gen.checkpoints.checkpoint import bits
from cpm_gen.checkpoints.formats.megatron import without_dropped
from cpm_gen.checkpoints.formats.torch_file import SavedFile
from cpm_gen.checkpoints.locate import open_checkpoint
from tests.random_networks import random_checkpoint

# deepspeed and what it imports warn about much that is theirs
pytestmark = [pytest.mark.deepspeed, pytest.mark.filterwarnings("ignore")]


class Engine:
    """A checkpoint engine that runs nothing of what the file names."""

    def load(self, path: str, map_location: Any = None) -> Any:
        return without_dropped(SavedFile(Path(path)).content)


@pytest.fixture(scope="module")
def loader_class() -> Iterator[type[Any]]:
    before = os.environ.get("DS_ACCELERATOR")
    os.environ["DS_ACCELERATOR"] = "cpu"
    pytest.importorskip("deepspeed", reason="needs the deepspeed extra", exc_type=ImportError)
    from deepspeed.runtime.state_dict_factory import MegatronSDLoader

    yield MegatronSDLoader
    if before is None:
        del os.environ["DS_ACCELERATOR"]
    else:
        os.environ["DS_ACCELERATOR"] = before


def theirs(loader_class: type[Any], folder: Path, degree: int, rank: int) -> dict[str, torch.Tensor]:
    paths = [str(path) for path in open_checkpoint(folder).files]
    loader = loader_class(paths, 0, Engine())
    _, content, _ = loader.load(degree, rank)
    module = content["module"]
    assert isinstance(module, dict)
    return dict(module)


def ours(folder: Path, degree: int, rank: int) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    result = {}
    for name, tensor in checkpoint.tensors.items():
        result[name] = torch.empty(checkpoint.slice_shape(name, degree), dtype=tensor.dtype)
        checkpoint.copy_slice(name, rank, degree, result[name])
    return result


def agree(loader_class: type[Any], folder: Path, degree: int) -> None:
    for rank in range(degree):
        wanted, got = theirs(loader_class, folder, degree, rank), ours(folder, degree, rank)
        assert wanted.keys() == got.keys()
        for name, tensor in wanted.items():
            assert tensor.dtype == got[name].dtype
            assert torch.equal(bits(tensor), bits(got[name])), (name, rank)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("source", "degree"), [(2, 1), (2, 2), (2, 4), (4, 2), (8, 2), (1, 8)])
def test_a_random_checkpoint(
    tmp_path: Path, loader_class: type[Any], source: int, degree: int, dtype: torch.dtype
) -> None:
    agree(loader_class, random_checkpoint(tmp_path, degree=source, dtype=dtype), degree)


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_the_reference_checkpoint(reference: Path, loader_class: type[Any], degree: int) -> None:
    agree(loader_class, reference / "original" / "tinyA", degree)


def test_the_comparison_can_fail(tmp_path: Path, loader_class: type[Any]) -> None:
    folder = random_checkpoint(tmp_path / "a", degree=2)
    other = random_checkpoint(tmp_path / "b", degree=2, seed=1)
    name = "transformer.layers.0.attention.query_key_value.weight"
    assert not torch.equal(theirs(loader_class, folder, 1, 0)[name], ours(other, 1, 0)[name])
    plain = torch.cat([ours(folder, 2, rank)[name] for rank in range(2)])  # joined as if q, k and v were one
    assert not torch.equal(theirs(loader_class, folder, 1, 0)[name], plain)
