"""What the person who loads a known model should know about it."""

from __future__ import annotations

import re
from pathlib import Path

from cpm_gen.config.options import ModelOptions
from cpm_gen.text.tokenizer import TextTokenizer

# positions that models of uer were trained on; all have 1,024 (their model cards on huggingface.co/uer)
_TRAINED = {"lyric": 512, "ancient": 320, "poem": 128, "couplet": 64}
_UER = re.compile(rf"gpt2-chinese-({'|'.join(_TRAINED)})(?![a-z])")


def window_hint(folder: Path, positions: int, options: ModelOptions) -> list[str]:
    """A note about the positions that a known model was trained on, by its folder's name."""
    found = _UER.search(f"{folder.name} {folder.resolve().name}")
    trained = _TRAINED[found[1]] if found else positions
    if trained >= positions or options.window_limit is not None:
        return []
    return [
        f"uer trained this model on {trained} of its {positions:,} positions; --window-limit {trained} keeps to them"
    ]


def rows_hint(tokenizer: TextTokenizer, vocabulary: int) -> list[str]:
    """A note about rows of the network's vocabulary that have no piece."""
    count = len(tokenizer.without_text(vocabulary))
    return [f"{count:,} of the network's {vocabulary:,} rows have no piece; they are never written"] if count else []
