"""A rank's running network from settings; every rank builds its own."""

from __future__ import annotations

import torch

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.formats.megatron import open_checkpoint
from cpm_gen.checkpoints.locate import model_folder
from cpm_gen.config.options import ModelOptions
from cpm_gen.engine.model_runner import Runner
from cpm_gen.networks.cuda_graphs.model import GraphedModel
from cpm_gen.networks.interface import Network
from cpm_gen.networks.native.model import PackedModel
from cpm_gen.networks.select import captures_graphs, computes_natively
from cpm_gen.networks.torch.load_weights import load_into
from cpm_gen.networks.torch.model import Model
from cpm_gen.parallel.group import TensorParallel


def make_runner(options: ModelOptions, heads: int, slots: int, group: TensorParallel, device: torch.device) -> Runner:
    """This rank's loaded network; every rank calls it."""
    return make_runner_from(open_checkpoint(model_folder(options.model)), heads, options, slots, group, device)


def make_runner_from(
    checkpoint: Checkpoint, heads: int, options: ModelOptions, slots: int, group: TensorParallel, device: torch.device
) -> Runner:
    """The same from an opened checkpoint."""
    size = checkpoint.size(heads)
    tensor_table.check_degree(
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
            from cpm_gen.networks.cuda_graphs.triton_ops import TritonOps

            network = GraphedModel(model, TritonOps())
    runner = Runner(network, slots)
    group.barrier()  # a rank that cannot load is an error of loading
    return runner
