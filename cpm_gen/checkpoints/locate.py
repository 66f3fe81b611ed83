"""Where a model lies, and the one place that opens a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cpm_gen.errors import CheckpointError

if TYPE_CHECKING:
    from cpm_gen.checkpoints.checkpoint import Checkpoint

EMBEDDED = Path(__file__).parents[1] / "embedded"


def model_folder(model: str | None) -> Path:
    """The folder that ``--model`` names; None or "embedded": the embedded model. Raises CheckpointError for an empty name."""
    _refuse_empty(model)
    return EMBEDDED if model in (None, "embedded") else Path(str(model))


def _refuse_empty(path: str | Path | None) -> None:
    if path == "":
        raise CheckpointError("the model's folder has an empty name; is a variable of the shell not set?")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open the checkpoint in a folder, whatever its format: headers are read and verified, tensors are not read.

    Raises CheckpointError, naming file and tensor, if the folder holds no checkpoint or a damaged one.
    """
    _refuse_empty(path)
    from cpm_gen.checkpoints.formats import megatron  # formats import torch; the tokenizer needs only model_folder

    return megatron.open_shards(path).checkpoint
