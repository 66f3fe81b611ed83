"""The number of attention heads of a checkpoint, the one size that its tensors do not determine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.small_files import read_small_text
from cpm_gen.config.model_sizes import known_heads
from cpm_gen.errors import CheckpointError

_CONFIG_BYTES = 1 << 20


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
        raise CheckpointError(f"{where}: {heads} heads do not divide the hidden size {checkpoint.hidden}")
    return heads


def known_or_configured_heads(checkpoint: Checkpoint) -> int | None:
    """The number of heads by ``config.json`` or by the hidden size; None if neither determines it."""
    configured = _configured_heads(checkpoint.folder)
    return configured if configured is not None else known_heads(checkpoint.hidden)


def _configured_heads(folder: Path) -> int | None:
    path = folder / "config.json"
    if not path.exists():
        return None
    text = read_small_text(path, _CONFIG_BYTES, "must hold a JSON object")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    value = next((content[k] for k in ("heads", "num_attention_heads", "n_head") if k in content), None)
    if value is not None and (type(value) is not int or value.bit_length() > 31):
        raise CheckpointError(f"{path}: heads must be a whole number, not {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = "a long number" if type(value) is int else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
