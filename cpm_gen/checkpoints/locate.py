"""Where a model lies, and the one place that opens a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cpm_gen.checkpoints.registry import hint
from cpm_gen.config.arguments import path_argument
from cpm_gen.errors import CheckpointError

if TYPE_CHECKING:
    from cpm_gen.checkpoints.checkpoint import Checkpoint

EMBEDDED = Path(__file__).parents[1] / "embedded"
UNFINISHED_RUN = Path("checkpoints", "run.json")  # in the folder of a cpm-gen finetune that has not ended


def model_folder(model: str | None) -> Path:
    """The folder that ``--model`` names; None or "embedded": the embedded model. Raises CheckpointError for an empty name."""
    return EMBEDDED if model in (None, "embedded") else path_argument(model, "the model's folder", CheckpointError)


def no_such_folder(folder: Path) -> CheckpointError:
    """The error for a model's folder that does not exist."""
    return CheckpointError(f"{folder}: no such folder; --model takes the folder of a checkpoint{hint(str(folder))}")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open the checkpoint in a folder, or an ONNX file, whatever its format: headers are read and verified, tensors are not read.

    Raises CheckpointError, naming file and tensor, if the folder holds no checkpoint or a damaged one.
    """
    # formats import torch; the tokenizer needs only model_folder
    from cpm_gen.checkpoints.formats import huggingface, megatron, onnx_file

    folder = path_argument(path, "the checkpoint folder", CheckpointError)
    if onnx_file.is_onnx(folder):
        return onnx_file.open_file(folder)
    if huggingface.is_huggingface(folder):
        return huggingface.open_folder(folder)
    return megatron.open_shards(folder).checkpoint
