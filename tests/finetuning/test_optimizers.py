"""Muon in float32 takes the steps of torch's Muon in bfloat16, up to bfloat16's rounding."""

import pytest
import torch
from torch import Tensor, nn

from cpm_gen.config.finetune_options import FinetuneOptions
from cpm_gen.finetuning import optimizers
from cpm_gen.finetuning.optimizers import Float32Muon, make_optimizer, orthogonal

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
SHAPES = ((32, 96), (32, 32), (96, 32), (32, 96))


def trained(kind: type[torch.optim.Muon], unused: int) -> list[Tensor]:
    """The matrices after five steps; the gradient of matrix ``unused`` is None in the second one."""
    draw = torch.Generator().manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]
    optimizer = kind(matrices, lr=0.02, weight_decay=0.5, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        for n, matrix in enumerate(matrices):
            gradient = torch.randn(matrix.shape, generator=draw)
            matrix.grad = None if step == 1 and n == unused else gradient
        optimizer.step()
    return [m.detach() for m in matrices]


def test_steps_are_those_of_torchs_muon() -> None:
    began = trained(torch.optim.Muon, -1)
    for unused in range(-1, len(SHAPES)):
        theirs, ours = trained(torch.optim.Muon, unused), trained(Float32Muon, unused)
        for a, b in zip(theirs, ours, strict=True):
            assert float((a - b).norm() / a.norm()) < 1e-3
        if unused >= 0:  # the step that was left out is larger than the rounding
            assert float((began[unused] - theirs[unused]).norm() / theirs[unused].norm()) > 1e-2


@pytest.mark.parametrize("shape", [(3, 20, 50), (2, 50, 20), (1, 16, 16)])
def test_matrices_become_nearly_orthogonal(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = torch.linalg.svdvals(orthogonal(matrices, COEFFICIENTS, 12, 1e-7))
    assert found.shape == (shape[0], min(shape[1:]))
    assert float(found.min()) > 0.6 and float(found.max()) < 1.3


@pytest.mark.parametrize(("fast", "kind"), [(True, torch.optim.Muon), (False, Float32Muon)])
def test_a_cpu_without_bfloat16_takes_float32(fast: bool, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "find_precision", lambda *_: torch.bfloat16 if fast else None)
    network = nn.ModuleDict({"h": nn.ModuleDict({"fc": nn.Linear(8, 8)})})
    model = nn.ModuleDict({"transformer": network})
    made = make_optimizer(model, FinetuneOptions(optimizer="muon", recipe="default", weight_decay=0.01), 0.01)
    assert type(made._both[0]) is kind  # type: ignore[attr-defined]
