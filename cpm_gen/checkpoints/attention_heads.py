"""The number of attention heads of a checkpoint, the one size that its tensors do not determine."""

from __future__ import annotations

from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.network_config import read_config
from cpm_gen.config.arguments import shown
from cpm_gen.config.model_sizes import known_heads
from cpm_gen.errors import CheckpointError


def resolve_heads(checkpoint: Checkpoint, given: int | None) -> int:
    """The number of heads: as given, from the checkpoint's ``config.json``, or of the CPM-1 of that hidden size.

    Raises CheckpointError if none of these is known, or the heads do not divide the hidden size.
    """
    heads = given if given is not None else known_or_configured_heads(checkpoint)
    if heads is None:
        raise CheckpointError(
            f"{checkpoint.folder}: the number of heads cannot be read from the tensors, and hidden size {checkpoint.hidden} is "
            'none of CPM-1\'s; give --heads N or put {"heads": N} in config.json there'
        )
    if heads < 1 or checkpoint.hidden % heads:
        where = checkpoint.folder if given is not None else checkpoint.folder / "config.json"
        raise CheckpointError(f"{where}: {shown(heads)} heads do not divide the hidden size {checkpoint.hidden}")
    return heads


def known_or_configured_heads(checkpoint: Checkpoint) -> int | None:
    """The number of heads by ``config.json`` or by the hidden size; None if neither determines it."""
    heads = checkpoint.heads
    if heads is None and (config := read_config(checkpoint.folder)) is not None:
        heads = config.number("heads", "n_head", "num_attention_heads")
    return known_heads(checkpoint.hidden) if heads is None else heads
