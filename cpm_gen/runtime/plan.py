"""What a load will do, decided before anything starts."""

from __future__ import annotations

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.config.options import ModelOptions
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError
from cpm_gen.parallel.launchers import Launch


def make_window(options: ModelOptions, positions: int) -> Window:
    """The window that the settings describe over a network with so many positions; raises ConfigError."""
    limit = positions - 1 if options.window_limit is None else options.window_limit
    if not 1 <= limit <= positions:
        raise ConfigError(f"window limit must be from 1 to {positions}, the network's positions, not {limit}")
    room = limit - options.window_keep
    hop = max(1, min(limit // 2, room)) if options.window_hop is None else options.window_hop
    return Window(limit, hop, options.window_boundary, options.window_keep)


def choose_degree(options: ModelOptions, checkpoint: Checkpoint, heads: int, launch: Launch | None) -> int:
    """How many ranks to run on: as asked, as launched, or as saved; raises where that cannot be."""
    asked = options.tensor_parallel
    if asked == "auto":
        asked = launch.size if launch else checkpoint.degree
    if launch and asked not in (1, launch.size):
        raise ConfigError(f"--tensor-parallel {asked} under a launcher that started {launch.size} ranks")
    degree = launch.size if launch else asked
    tensor_table.check_degree(
        degree,
        vocabulary=checkpoint.vocabulary,
        heads=heads,
        hidden=checkpoint.hidden,
        where=str(checkpoint.folder),
    )
    return degree
