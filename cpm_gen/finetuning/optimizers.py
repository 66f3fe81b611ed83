"""The optimizers of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cpm_gen.config.finetune_options import FinetuneOptions
from cpm_gen.finetuning.device import find_precision

_BETAS = {"default": (0.9, 0.95), "cpm1": (0.9, 0.999)}  # by recipe
_MUON_DECAY = 5.0  # times the weight decay of the others


class Float32Muon(torch.optim.Muon):
    """:class:`torch.optim.Muon` in float32, for a CPU that has no fast bfloat16: there its products take longer than all else of a step.

    Matrices of one shape are made orthogonal together. With Nesterov's momentum and the learning rate of ``match_rms_adamw``.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; ``closure`` is not called."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in (p for p in group["params"] if p.grad is not None):
                by_shape.setdefault(parameter.shape, []).append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group)

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        updates = []
        for parameter in parameters:
            gradient, state = parameter.grad, self.state[parameter]
            assert gradient is not None
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            mean = state["momentum_buffer"]
            mean.lerp_(gradient, 1 - group["momentum"])
            updates.append(gradient.lerp(mean, group["momentum"]))
        together = orthogonal(torch.stack(updates), group["ns_coefficients"], group["ns_steps"], group["eps"])
        rate = group["lr"] * 0.2 * math.sqrt(max(parameters[0].shape))  # match_rms_adamw
        for parameter, update in zip(parameters, together, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)


def orthogonal(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Nearly orthogonal matrices by Newton-Schulz iterations (Jordan et al. 2024), ``[n, rows, columns]``, in the dtype of ``matrices``."""
    a, b, c = coefficients
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, as in :class:`torch.optim.Muon`) for matrices, AdamW for the rest, as one optimizer."""

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        self._both = (muon, adamw)
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The groups of both: those that a scheduler sets the learning rate in."""
        return [group for one in self._both for group in one.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        """What both keep for each parameter."""
        return {parameter: kept for one in self._both for parameter, kept in one.state.items()}

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of both."""
        for one in self._both:
            one.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for one in self._both:
            one.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        return {name: one.state_dict() for name, one in zip(("muon", "adamw"), self._both, strict=True)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, one in zip(("muon", "adamw"), self._both, strict=True):
            one.load_state_dict(state_dict[name])


def make_optimizer(model: nn.Module, options: FinetuneOptions, learning_rate: float) -> torch.optim.Optimizer:
    """The optimizer of the trainable parameters; vectors have no weight decay."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trained if p.ndim == 2 and ".h." in name and options.optimizer == "muon"]
    own = {id(p) for p in matrices}
    others = [p for _, p in trained if id(p) not in own]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=learning_rate, betas=_BETAS[options.recipe], fused=True
    )
    if not matrices:
        return adamw
    decay = _MUON_DECAY * options.weight_decay
    muon = torch.optim.Muon if find_precision("auto", matrices[0].device) else Float32Muon
    return MuonWithAdamW(muon(matrices, lr=learning_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"), adamw)
