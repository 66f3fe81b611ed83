"""The device that a rank runs on, and how many CPU threads pay."""

from __future__ import annotations

import os

import torch

from cpm_gen.errors import ConfigError


def pick_device(name: str, local_rank: int) -> torch.device:
    """The device that a rank runs on; raises ConfigError where there is no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be cpu, cuda, cuda:N or auto, not {name!r}") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ConfigError(f"device must be cpu, cuda, cuda:N or auto, not {name!r}")
    count = torch.cuda.device_count()
    index = local_rank if device.index is None else device.index + local_rank
    if index >= count:
        raise ConfigError(f"device {name}: rank {local_rank} needs GPU {index}, this machine has {count}")
    return torch.device("cuda", index)


def useful_threads(hidden: int, *, native: bool) -> int:
    """CPU threads that pay for a network of this hidden size: a core for every 4 million weights of a layer, in torch.

    Every layer waits a few times for all threads; in a small one torch's waiting costs more than the second core saves, and
    far more on a machine that does something else too. The native kernels wait less: a core for every 200,000 weights.
    """
    return min(os.cpu_count() or 1, -(-12 * hidden**2 // (200_000 if native else 4_000_000)))
