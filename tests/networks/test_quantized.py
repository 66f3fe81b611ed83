"""int8 weights in torch: the network is the one whose matrices were rounded, and takes a quarter of the memory."""

from pathlib import Path

import pytest
import torch

import cpm_gen
from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.formats.megatron import save_checkpoint
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.networks.interface import Segment
from cpm_gen.networks.torch.layers import ColumnParallelLinear, Place
from cpm_gen.networks.torch.load_weights import load_into
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.parallel.group import TensorParallel
from tests.random_networks import SMALL, random_checkpoint, random_state

CPU = torch.device("cpu")


def rounded(name: str, values: torch.Tensor) -> torch.Tensor:
    """By the definition: whole multiples, up to 127, of a step for each row; norms, biases and positions as they are."""
    if values.dim() == 1 or name.startswith("position"):
        return values
    rows = values.double().tolist()
    steps = [max(map(abs, row)) / 127 for row in rows]
    return torch.tensor([[round(v / step) * step for v in row] for row, step in zip(rows, steps, strict=True)])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 0.02), (torch.float16, 3e-3)])
def test_the_network_is_the_rounded_one(tmp_path: Path, dtype: torch.dtype, bound: float) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path / "plain", degree=2))
    quantized = TorchModel(SMALL, TensorParallel(), dtype=dtype, device=CPU, quantized=True)
    load_into(quantized, checkpoint, rank=0, degree=1)
    state = {name: rounded(name, values).float() for name, values in random_state().items()}
    save_checkpoint(tmp_path / "rounded", state, degree=1, iteration=1)
    plain = TorchModel(SMALL, TensorParallel(), dtype=torch.float32, device=CPU)
    load_into(plain, open_checkpoint(tmp_path / "rounded"), rank=0, degree=1)
    segments = [Segment([5, 80, 3]), Segment([119])]
    want = plain.next_logits(segments, None)
    got = quantized.next_logits(segments, None)
    assert got.dtype == torch.float32
    assert float((got - want).std() / want.std()) < bound


def test_every_matrix_takes_a_byte_a_weight_and_a_scale_a_row() -> None:
    model = TorchModel(SMALL, TensorParallel(), dtype=torch.bfloat16, device=CPU, quantized=True)
    names = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.int8}
    all_names = tensor_table.names(SMALL.layers)
    assert names == {n for n in all_names if n.endswith("weight") and "norm" not in n and not n.startswith("position")}
    scales = dict(model.named_buffers())
    assert {name.removesuffix("scale") for name in scales} == {name.removesuffix("weight") for name in names}
    assert all(scale.dtype == torch.float32 and scale.dim() == 1 for scale in scales.values())


def test_rows_of_nothing_and_large_values() -> None:
    matrix = ColumnParallelLinear(3, 3, Place(TensorParallel(), torch.float16, CPU, quantized=True))
    values = torch.tensor([[0.0, 0, 0], [6e4, -6e4, 1], [1e-4, 0, -5e-5]])
    matrix.quantize(values)
    assert matrix.weight.tolist() == [[0, 0, 0], [127, -127, 0], [127, 0, -64]]
    assert matrix.whole().tolist()[0] == [0, 0, 0]
    assert matrix.whole().tolist()[1] == pytest.approx([6e4, -6e4, 0], rel=1e-3)
    assert matrix.whole().tolist()[2] == pytest.approx([1e-4, 0, -64 / 127 * 1e-4], rel=1e-2)


def scores(folder: Path, **options: object) -> torch.Tensor:
    with cpm_gen.load(folder, kernels="torch", **options) as llm:  # type: ignore[arg-type]
        found = llm.score([(7 * n) % 120 for n in range(60)])
    return torch.tensor(found[1:])


@pytest.mark.parametrize("degree", [1, 2])
def test_from_settings_at_any_degree_it_stays_near_float32(tmp_path: Path, degree: int) -> None:
    folder = random_checkpoint(tmp_path, degree=2)
    exact, int8 = scores(folder), scores(folder, quantize="int8", tensor_parallel=degree)
    error = float((int8 - exact).std())
    assert 1e-4 < error < 0.1
