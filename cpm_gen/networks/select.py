"""Which backend computes."""

from __future__ import annotations

import importlib.util

import torch

from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import ConfigError
from cpm_gen.networks.native import library


def computes_natively(options: ModelOptions, device: torch.device) -> bool:
    """Whether the native kernels run this model, or torch does; raises ConfigError where what is asked for cannot be."""
    reason = None
    if options.kernels in ("torch", "graphs"):
        reason = f"kernels is {options.kernels}"
    elif device.type != "cpu":
        reason = f"the device is {device}"
    elif options.dtype == "float16" and options.quantize == "none":
        reason = "they compute in float32 and bfloat16, not float16"
    else:
        reason = library.missing()
    if reason and options.kernels == "native":
        raise ConfigError(f"kernels native needs the native CPU kernels, but {reason}")
    if reason and options.kv_cache != "auto":
        raise ConfigError(f"kv_cache {options.kv_cache} needs the native CPU kernels, but {reason}")
    return reason is None


def captures_graphs(options: ModelOptions, device: torch.device, degree: int) -> bool:
    """Whether a GPU replays graphs of our own kernels, or runs torch's one by one; raises ConfigError where graphs cannot be.

    Only where asked for, until a GPU has run them (decision 10).
    """
    if options.kernels != "graphs":
        return False
    reason = None
    if device.type != "cuda":
        reason = f"the device is {device}"
    elif degree > 1:
        reason = f"there are {degree} ranks"  # collectives inside graphs wait for a machine to try them on
    elif options.decoder != "cached":
        reason = f"the decoder is {options.decoder}"
    elif importlib.util.find_spec("triton") is None:
        reason = "Triton is not installed"
    if reason:
        raise ConfigError(f"kernels graphs needs one GPU, Triton and the cached decoder, but {reason}")
    return True


def fallback_note(options: ModelOptions, device: torch.device) -> str | None:
    """What to tell a person whose CPU would be served better by kernels that were not built."""
    reason = library.missing()
    half = options.dtype == "float16" and options.quantize == "none"  # torch's own, wherever
    if reason is None or device.type != "cpu" or options.kernels == "torch" or half:
        return None
    return f"{reason}, so torch computes, more slowly"
