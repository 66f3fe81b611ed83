"""Where a run computes, and in which number format."""

from __future__ import annotations

import os

import torch

from cpm_gen.errors import ConfigError


def find_device(name: str) -> tuple[bool, torch.device]:
    """Whether the CPU is used, and the device; raises ConfigError for one that is not there."""
    cuda = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--device must be cpu, cuda or auto, not {name!r}; CUDA_VISIBLE_DEVICES chooses among GPUs")
    if name == "cuda" and not cuda:
        raise ConfigError("--device cuda: torch finds no GPU here; leave it out to train on the CPU")
    use_cpu = name == "cpu" or not cuda
    return use_cpu, torch.device("cpu") if use_cpu else torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def find_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The 16-bit format of the computation; None: float32. Raises ConfigError for one that the device lacks."""
    if name == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if fast else None
    if name == "float16" and device.type == "cpu":
        raise ConfigError("--precision float16 is for GPUs; on a CPU take bfloat16 or float32")
    return None if name == "float32" else getattr(torch, name)
