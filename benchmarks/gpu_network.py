"""Random networks for ``benchmarks/gpu.py``, created on the device, and the check that graphs compute the same."""

from __future__ import annotations

from typing import Any

import torch

from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.engine import Engine
from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.engine.scheduler import CachedScheduler, RecomputeScheduler, Scheduler
from cpm_gen.engine.sequence import Request
from cpm_gen.engine.window import Window
from cpm_gen.networks.cuda_graphs.layer_ops import RowOps, TorchOps
from cpm_gen.networks.cuda_graphs.model import GraphedModel
from cpm_gen.networks.torch.layers import Matrix
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.parallel.group import TensorParallel

GREEDY = SamplingParams(temperature=0.0)
NOVEL = SamplingParams(temperature=0.95, top_k=50, top_p=0.95)
CHECKED = ModelSize(layers=2, hidden=120, heads=3, vocabulary=1200, positions=80)


def made(size: ModelSize, dtype: torch.dtype, device: torch.device, quantized: bool = False) -> TorchModel:
    """A network of random weights with nontrivial norms and biases, whose greedy texts do not repeat one token."""
    torch.manual_seed(0)
    model = TorchModel(size, TensorParallel(), dtype=dtype, device=device, quantized=quantized)
    for name, parameter in model.named_parameters():
        spread = 2 * parameter.shape[1] ** -0.5 if parameter.dim() == 2 else 0.1
        if parameter.dtype == torch.int8:
            matrix = model.get_submodule(name.removesuffix(".weight"))
            assert isinstance(matrix, Matrix)
            matrix.quantize(torch.randn(parameter.shape, device=device) * spread)
        else:
            parameter.normal_(float("layernorm.weight" in name), spread)
    return model


def kernels(device: torch.device) -> RowOps:
    if device.type == "cpu":
        return TorchOps()
    from cpm_gen.networks.cuda_graphs.triton_ops import TritonOps

    return TritonOps()


def check(device: torch.device, quantized: bool) -> None:
    """Check eight texts in float32, greedy and sampled, over several slides against the oracle; raises AssertionError."""
    model = made(CHECKED, torch.float32, device, quantized)
    window = Window(CHECKED.positions - 1, 30, "token", 2)

    def write(model: Any, decoder: Scheduler, slots: int, batch: int) -> list[list[int]]:
        engine = Engine(ModelRunner(model, slots), decoder, batch=batch)
        texts = [
            engine.add(Request(tuple(range(11 + n, 20 + 9 * n)), window, None, params, n, max_new_tokens=80))
            for n, params in enumerate([GREEDY, NOVEL] * 4)
        ]
        while engine.busy:
            engine.step()
        return [text.new_tokens for text in texts]

    want = write(model, RecomputeScheduler(), 0, 1)
    got = write(GraphedModel(model, kernels(device)), CachedScheduler(8, 12, 64), 12, 8)
    assert got == want, "the texts differ"
    assert len({token for text in want for token in text}) > 100
    print("texts in float32, eight at once, over several slides: equal to the oracle's")
