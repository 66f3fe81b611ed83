"""How tests begin a run."""

from pathlib import Path
from typing import Any

import torch

from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.finetune_options import finetune_options
from cpm_gen.config.options import ModelOptions


def request_for(model: Path, data: Path, **given: Any) -> Any:
    from cpm_gen.finetuning.prepare import Request

    options = finetune_options({"threads": 1, "precision": "float32", **given}, "lyric")
    return Request(ModelOptions(model=str(model)), "lyric", (str(data),), None, 5, options)


def trained(request: Any, folder: Path) -> tuple[Any, Any, list[Any]]:
    """(what was prepared, how it ended, what was reported)."""
    from cpm_gen.finetuning.prepare import prepare
    from cpm_gen.finetuning.run_folder import RunFolder
    from cpm_gen.finetuning.trainer import run

    steps: list[Any] = []
    prepared = prepare(request, RunFolder(folder), resume=False)
    return prepared, run(prepared.setup, steps.append), steps


def whole(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = open_checkpoint(folder)
    found = {}
    for name in checkpoint.tensors:
        found[name] = torch.empty(checkpoint.shape(name))
        checkpoint.copy_slice(name, 0, 1, found[name])
    return found


def flags(model: Path, songs: Path, out: Path, *more: object) -> list[str]:
    words = ["finetune", "--model", model, "--data", songs, "--output", out, "--threads", 1, "--json", *more]
    return [str(word) for word in words]
