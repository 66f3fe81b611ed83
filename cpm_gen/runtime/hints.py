"""What the person who loads a model or writes a prompt should know."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cpm_gen.config.options import ModelOptions, TextOptions

if TYPE_CHECKING:
    from cpm_gen.runtime.text_engine import TextEngine

# positions that models of uer were trained on; all have 1,024 (their model cards on huggingface.co/uer)
_TRAINED = {"lyric": 512, "ancient": 320, "poem": 128, "couplet": 64}
_UER = re.compile(rf"gpt2-chinese-({'|'.join(_TRAINED)})(?![a-z])")


def window_hint(folder: Path, positions: int, options: ModelOptions) -> list[str]:
    """A note about the positions that a known model was trained on, by its folder's name."""
    places = (folder.name, folder.resolve().name, *folder.parts[-3:-2])  # the last: of a snapshot in the Hub's cache
    found = _UER.search(" ".join(places))
    trained = _TRAINED[found[1]] if found else positions
    if trained >= positions or options.window_limit is not None:
        return []
    return [
        f"uer trained this model on {trained} of its {positions:,} positions; --window-limit {trained} keeps to them"
    ]


def prompt_remarks(engine: TextEngine, prompt: str, token_ids: Sequence[int], text: TextOptions) -> list[str]:
    """What the writer of a prompt should know: what of it the network cannot see, and stop strings that never match.

    token_ids: of the prompt.
    """
    found = []
    window = engine.window_beside(text)
    if len(token_ids) > window.limit:
        holds = f"{window.limit:,}" if text.story is None else f"{window.limit:,} beside the story"
        found.append(
            f"the prompt has {len(token_ids):,} tokens; the network sees {engine.vocabulary.visible(token_ids, window):,} of them "
            f"(its window holds {holds})"
        )
    # in the other styles <eod> divides the prompt
    shown = prompt if text.style == "plain" else prompt.replace("<eod>", "\n")
    found += engine.vocabulary.tokenizer.remarks(shown, as_text=not engine.options.special_pieces)
    for stop in text.stop:
        if "\\n" in stop and "\n" not in stop:
            found.append(f"the stop string {stop} holds a backslash and an n; a newline is $'\\n' in most shells")
    found += [
        f"the stop string {stop} never matches: the vocabulary cannot write it"
        for stop in engine.vocabulary.stops(text).never
    ]
    return found
