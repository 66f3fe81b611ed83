"""``training/grow.py``: the larger network predicts what the smaller one does."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.finetuning.gpt2 import new_network
from cpm_gen.finetuning.language_model import LanguageModel

SMALL = ModelSize(layers=2, hidden=32, heads=4, vocabulary=50, positions=16)
IDS = torch.randint(50, (4, 16), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def grow() -> ModuleType:
    spec = importlib.util.spec_from_file_location("grow", Path(__file__).parents[2] / "training" / "grow.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def small() -> LanguageModel:
    """A network whose weights are large enough for its predictions to differ.

    The rows of its embedding have no mean, the one thing that a larger layer norm weighs differently.
    """
    network = new_network(SMALL, 0.0, 1).eval()
    with torch.no_grad():
        for values in network.parameters():
            values += 0.3 * torch.randn_like(values)
        network.transformer.wte.weight -= network.transformer.wte.weight.mean(1, keepdim=True)
    return network


def logits(network: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network.eval()(input_ids=IDS).logits
    return found


def test_a_larger_network_predicts_the_same(grow: ModuleType) -> None:
    old = small()
    new = new_network(ModelSize(layers=2, hidden=48, heads=6, vocabulary=50, positions=32), 0.0, 2)
    grow.grow(old, new, old.get_input_embeddings().weight.detach())
    torch.testing.assert_close(logits(new), logits(old), rtol=0, atol=2e-3)
    assert new.transformer.wpe.weight[16:, :32].equal(new.transformer.wpe.weight[8:16, :32].repeat(2, 1))


def test_the_new_units_learn(grow: ModuleType) -> None:
    old = small()
    new = new_network(ModelSize(layers=2, hidden=48, heads=6, vocabulary=50, positions=32), 0.0, 2)
    grow.grow(old, new, old.get_input_embeddings().weight.detach())
    new(input_ids=IDS[:, :-1], targets=IDS[:, 1:]).backward()
    wrote = new.transformer.h[0].mlp.c_proj.weight.grad
    assert wrote[128:].abs().max() > 0 and wrote[:, 32:].abs().max() > 0
    assert new.transformer.wte.weight.grad[:, 32:].abs().max() > 0


def test_other_pieces_begin_as_the_mean_of_their_parts(grow: ModuleType) -> None:
    vectors = torch.arange(6.0).view(3, 2)
    found = grow.vectors(vectors, {"天": 0, "地": 1, "人": 2}, {"人": 0, "天地": 1, "日": 2})
    assert found.tolist() == [[4.0, 5.0], [1.0, 2.0], [2.0, 3.0]]


def test_heads_of_another_size_are_refused(grow: ModuleType) -> None:
    new = new_network(ModelSize(layers=2, hidden=48, heads=4, vocabulary=50, positions=32), 0.0, 2)
    with pytest.raises(SystemExit, match="heads of 8"):
        grow.grow(small(), new, torch.zeros(50, 32))
