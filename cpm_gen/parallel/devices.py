"""The device of a rank, and how many CPU threads are useful."""

from __future__ import annotations

import torch

from cpm_gen.errors import ConfigError


def pick_device(name: str, local_rank: int, gpus: int) -> torch.device:
    """The device of a rank on a machine with ``gpus`` GPUs; raises ConfigError if there is no such device.

    name: "cpu", "cuda", "cuda:N" (rank 0's GPU; rank ``n`` gets ``N + n``) or "auto".
    """
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be cpu, cuda, cuda:N or auto, not {name!r}") from None
    if device.type == "cpu":
        return torch.device("cpu")
    if device.type != "cuda":
        raise ConfigError(f"device must be cpu, cuda, cuda:N or auto, not {name!r}")
    index = local_rank if device.index is None else device.index + local_rank
    if index >= gpus:
        raise ConfigError(f"device {name}: rank {local_rank} needs GPU {index}, this machine has {gpus}")
    return torch.device("cuda", index)


def useful_threads(hidden: int, *, native: bool, cpus: int) -> int:
    """CPU threads, of all ranks together, that speed up a network of this hidden size on a machine with ``cpus`` cores.

    In torch: one for every 4 million weights of a layer. Every layer waits several times for all threads; in a small layer
    torch's waiting costs more than a second core saves, and much more on a machine that runs other programs. The native kernels
    wait less: one for every 200,000 weights.
    """
    return min(cpus, -(-12 * hidden**2 // (200_000 if native else 4_000_000)))
