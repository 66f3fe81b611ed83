"""The loss in chunks and the attention of short rows, beside torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("transformers")

from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.finetuning import language_model
from cpm_gen.finetuning.gpt2 import new_network
from cpm_gen.finetuning.language_model import LanguageModel

SIZE = ModelSize(layers=2, hidden=32, heads=4, vocabulary=97, positions=64)


@pytest.fixture
def model() -> LanguageModel:
    return new_network(SIZE, 0.0, seed=3)


def batch(rows: int = 3, length: int = 24) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(5)
    ids = torch.randint(0, SIZE.vocabulary, (rows, length), generator=draw)
    targets = torch.randint(0, SIZE.vocabulary, (rows, length), generator=draw)
    targets[torch.rand(rows, length, generator=draw) < 0.2] = language_model.IGNORED
    return ids, targets, torch.arange(length).expand(rows, length)


def gradients(model: LanguageModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def of_all_logits(model: LanguageModel, ids: Tensor, targets: Tensor, positions: Tensor) -> Tensor:
    logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")  # -100 is not counted


@pytest.mark.parametrize("held", [1, 97 * 5, 97 * 7 + 3, 1 << 23], ids=["a row", "five rows", "seven rows", "all"])
def test_loss_and_gradients_are_those_of_all_logits_at_once(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(language_model, "HELD_LOGITS", held)
    ids, targets, positions = batch()
    ours = model(input_ids=ids, targets=targets, position_ids=positions, use_cache=False)
    theirs = of_all_logits(model, ids, targets, positions)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    mine, expected = gradients(model, ours / 7), gradients(model, theirs / 7)
    assert mine.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(mine[name], gradient, atol=1e-6, rtol=1e-4), name
        if not name.endswith("c_attn.bias"):  # a third of it, of the keys, is rounding
            assert float(gradient.abs().max()) > 1e-4, name


def test_where_nothing_is_counted_the_loss_and_its_gradients_are_zero(model: LanguageModel) -> None:
    ids, targets, positions = batch()
    loss = model(input_ids=ids, targets=torch.full_like(targets, -100), position_ids=positions, use_cache=False)
    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in gradients(model, loss).values())


def test_a_head_that_is_not_trained_gets_no_gradient(model: LanguageModel) -> None:
    ids, targets, positions = batch()
    model.lm_head.weight.requires_grad_(False)  # tied with the embedding
    found = gradients(model, model(input_ids=ids, targets=targets, position_ids=positions, use_cache=False))
    assert "transformer.wte.weight" not in found
    assert "transformer.h.0.mlp.c_fc.weight" in found


@pytest.mark.parametrize("length", [1, 24, 64])
def test_short_rows_in_bfloat16_equal_torchs_attention(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    ids, targets, positions = batch(length=length)
    found = []
    for short in (256, 0):  # two batched products, torch's
        monkeypatch.setattr(language_model, "_SHORT", short)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, targets=targets, position_ids=positions, use_cache=False)
        found.append((loss.item(), gradients(model, loss)))
    exact = of_all_logits(model, ids, targets, positions)
    reference = gradients(model, exact)
    (ours, mine), (_, other) = found
    assert ours == pytest.approx(exact.item(), rel=5e-3)
    for name, gradient in reference.items():
        near = float((other[name] - gradient).norm())  # how far bfloat16 is from float32 with torch's attention
        assert float((mine[name] - gradient).norm()) < 2 * near + 0.01 * float(gradient.norm()), name


def test_dropout_of_short_rows_keeps_the_mean(model: LanguageModel) -> None:
    draw = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, 4, 24, 8, generator=draw).bfloat16() for _ in range(3))
    torch.manual_seed(0)
    without, _ = language_model._attend(model, query, key, value, None)
    several = torch.stack([language_model._attend(model, query, key, value, None, dropout=0.3)[0] for _ in range(400)])
    assert not torch.equal(several[0], several[1])
    assert float((several.float().mean(0) - without.float()).abs().max()) < 0.25
    assert float((several.float().mean(0) - without.float()).abs().mean()) < 0.03
