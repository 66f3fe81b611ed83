"""A rank's running network from settings; every rank builds its own."""

from __future__ import annotations

import importlib.util

import torch

from cpm_gen import native, parallel, partition
from cpm_gen.checkpoint import Checkpoint, load_into, open_checkpoint
from cpm_gen.config import ModelOptions
from cpm_gen.errors import ConfigError
from cpm_gen.folders import model_folder
from cpm_gen.graphed import GraphedModel
from cpm_gen.model import Model
from cpm_gen.packed import PackedModel
from cpm_gen.parallel import TensorParallel
from cpm_gen.runner import Network, Runner
from cpm_gen.window import Window


def make_window(options: ModelOptions, positions: int) -> Window:
    """The window that the settings describe over a network with so many positions; raises ConfigError."""
    limit = positions - 1 if options.window_limit is None else options.window_limit
    if not 1 <= limit <= positions:
        raise ConfigError(f"window limit must be from 1 to {positions}, the network's positions, not {limit}")
    room = limit - options.window_keep
    hop = max(1, min(limit // 2, room)) if options.window_hop is None else options.window_hop
    return Window(limit, hop, options.window_boundary, options.window_keep)


def make_runner(options: ModelOptions, heads: int, slots: int, group: TensorParallel, device: torch.device) -> Runner:
    """This rank's loaded network; every rank calls it."""
    return make_runner_from(open_checkpoint(model_folder(options.model)), heads, options, slots, group, device)


def make_runner_from(
    checkpoint: Checkpoint, heads: int, options: ModelOptions, slots: int, group: TensorParallel, device: torch.device
) -> Runner:
    """The same from an opened checkpoint."""
    size = checkpoint.size(heads)
    partition.check_degree(
        group.size, vocabulary=size.vocabulary, heads=heads, hidden=size.hidden, where=str(checkpoint.folder)
    )
    network: Network
    if computes_natively(options, device):
        form = "int8" if options.quantize == "int8" else options.dtype
        kv_form = None if options.kv_cache == "auto" else options.kv_cache
        network = packed = PackedModel(size, group, form=form, kv_form=kv_form, threads=torch.get_num_threads())
        packed.load(checkpoint)
    else:
        dtype = getattr(torch, options.dtype)
        network = model = Model(size, group, dtype=dtype, device=device, quantized=options.quantize == "int8")
        load_into(model, checkpoint, rank=group.rank, degree=group.size)
        if captures_graphs(options, device, group.size):
            from cpm_gen.triton_ops import TritonOps

            network = GraphedModel(model, TritonOps())
    runner = Runner(network, slots)
    group.barrier()  # a rank that cannot load is an error of loading
    return runner


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
        reason = native.missing()
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
    reason = native.missing()
    half = options.dtype == "float16" and options.quantize == "none"  # torch's own, wherever
    if reason is None or device.type != "cpu" or options.kernels == "torch" or half:
        return None
    return f"{reason}, so torch computes, more slowly"


def choose_degree(options: ModelOptions, checkpoint: Checkpoint, heads: int, launch: parallel.Launch | None) -> int:
    """How many ranks to run on: as asked, as launched, or as saved; raises where that cannot be."""
    asked = options.tensor_parallel
    if asked == "auto":
        asked = launch.size if launch else checkpoint.degree
    if launch and asked not in (1, launch.size):
        raise ConfigError(f"--tensor-parallel {asked} under a launcher that started {launch.size} ranks")
    degree = launch.size if launch else asked
    partition.check_degree(
        degree,
        vocabulary=checkpoint.vocabulary,
        heads=heads,
        hidden=checkpoint.hidden,
        where=str(checkpoint.folder),
    )
    return degree
