"""What ``--deepspeed`` names."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

from cpm_gen.errors import ConfigError, InputError


def check_deepspeed(deepspeed: str | None) -> None:
    """Check DeepSpeed and its configuration before the network is loaded; raises InputError or ConfigError."""
    if deepspeed is None:
        return
    if not Path(deepspeed).is_file():
        raise InputError(f"--deepspeed {deepspeed}: no such file; configs/deepspeed has one")
    stage = _zero_stage(Path(deepspeed))
    if stage is not None and stage > 2:
        raise ConfigError(
            f"--deepspeed {deepspeed}: its stage {stage} divides the weights over the ranks, which samples and the result "
            "cannot do without; take stage 2, as configs/deepspeed/zero2.json"
        )
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            "--deepspeed needs deepspeed: pip install -c constraints.txt -e '.[deepspeed]' in the checkout"
        )
    if "RANK" not in os.environ:
        raise ConfigError("--deepspeed is for ranks; start them with torchrun or deepspeed (docs/finetuning.md)")


def _zero_stage(path: Path) -> int | None:
    """The ZeRO stage that a configuration of DeepSpeed names; raises InputError for a file that is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        stage = content.get("zero_optimization", {}).get("stage")
    except (OSError, ValueError, AttributeError):
        raise InputError(f"{path}: does not read as DeepSpeed's JSON configuration") from None
    return stage if isinstance(stage, int) else None
