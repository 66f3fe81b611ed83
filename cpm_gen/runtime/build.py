"""Build one rank's loaded network from the plan; every rank builds its own."""

from __future__ import annotations

import torch

from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.engine.model_runner import ModelRunner
from cpm_gen.networks.select import backend
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.runtime.plan import RankPlan


def build_runner(plan: RankPlan, checkpoint: Checkpoint, group: TensorParallel) -> ModelRunner:
    """Load this rank's slices and make its KV cache. Waits for all ranks, so that a rank that cannot load fails the load.

    Raises CheckpointError if the tensors do not fit, RuntimeError if another rank is gone.
    """
    build = backend(plan.backend)
    size, device = checkpoint.size(plan.heads), torch.device(plan.device)
    network = build(checkpoint, size, group, plan.options, device, plan.threads)
    runner = ModelRunner(network, plan.slots, plan.scoring_slots)
    group.barrier()
    return runner
