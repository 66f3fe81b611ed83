"""What the person who loads a known model should know about it."""

from __future__ import annotations

import re
from pathlib import Path

from cpm_gen.config.options import ModelOptions

# positions that models of uer were trained on; all have 1,024 (their model cards on huggingface.co/uer)
_TRAINED = {"lyric": 512, "ancient": 320, "poem": 128, "couplet": 64}
_UER = re.compile(rf"gpt2-chinese-({'|'.join(_TRAINED)})(?![a-z])")


def hints(folder: Path, positions: int, options: ModelOptions) -> list[str]:
    """Notes about a model, told by its folder's name."""
    found = _UER.search(f"{folder.name} {folder.resolve().name}")
    trained = _TRAINED[found[1]] if found else positions
    if trained >= positions or options.window_limit is not None:
        return []
    return [f"uer trained this model on {trained} of its {positions:,} positions; --window-limit {trained} keeps to them"]
