"""What training needs of a device's memory, before it begins.

The figures are estimates: weights, gradients and the optimizer's two moments in float32, and for each token of a step what the backward
pass keeps of a layer (about 34 numbers for each of the hidden size, Korthikanti et al. 2022). Logits are held for some tokens at a time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil
import torch

from cpm_gen.config.finetune_options import FinetuneOptions
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.errors import InputError
from cpm_gen.finetuning.language_model import HELD_LOGITS

_KEPT = 34  # numbers of a layer for each number of the hidden state
_LOGITS = 14  # bytes of a logit: itself, its softmax, its gradient in the computation's format and in float32
_SHARE = 0.7  # of the memory that is free


@dataclass(frozen=True)
class MemoryPlan:
    """micro_batch: windows that are computed at once. checkpointing: whether activations are computed twice."""

    micro_batch: int
    checkpointing: bool


def plan_memory(
    size: ModelSize,
    parameters: int,
    options: FinetuneOptions,
    *,
    length: int,
    rows: int,
    device: torch.device,
    half: bool,
) -> MemoryPlan:
    """How a step of ``rows`` windows is computed on a device, where the network is not loaded yet.

    parameters: of the network, without adapters. half: whether activations have 16 bits. DeepSpeed divides these over the ranks in ways
    of its own, so with it a window is computed at a time unless the options say otherwise. Raises InputError if weights, gradients and
    moments alone do not fit.
    """
    if options.deepspeed is not None:
        return MemoryPlan(options.micro_batch or 1, bool(options.gradient_checkpointing))
    adapters = adapter_parameters(size, options.lora) if options.lora is not None else 0
    free = free_bytes(device)
    fixed = 4 * (parameters + adapters) + 12 * (adapters or parameters)
    if fixed > free:
        raise InputError(
            f"training needs about {fixed / 1e9:.1f} GB for weights, gradients and moments, {free / 1e9:.1f} GB are free; "
            "try --lora 16, which trains few of the weights, a smaller model, or --deepspeed"
        )
    width = (2 if half else 4) * _KEPT * size.layers * size.hidden
    left = _SHARE * max(free - fixed - _LOGITS * max(HELD_LOGITS, size.vocabulary), 0)
    checkpointing = options.gradient_checkpointing
    if checkpointing is None:
        checkpointing = length * width > left
    window = length * (width // _KEPT if checkpointing else width)
    if options.micro_batch is not None:
        return MemoryPlan(options.micro_batch, checkpointing)
    micro = max(1, min(rows, int(left // window)))
    while rows % micro:  # a step is some whole number of these
        micro -= 1
    return MemoryPlan(micro, checkpointing)


def adapter_parameters(size: ModelSize, rank: int) -> int:
    """Parameters of adapters of that rank: each matrix of a layer gets rank rows of its inputs and of its outputs."""
    return size.layers * rank * 16 * size.hidden  # of 1+3, 1+1, 1+4 and 4+1 times the hidden size


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device for this rank."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
