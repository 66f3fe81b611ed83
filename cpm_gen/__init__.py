"""cpm-gen: Chinese lyrics and novels of any length with CPM-1.

>>> import cpm_gen
>>> with cpm_gen.load() as llm:
...     completion = llm.generate("明月几时有", style="lyric", max_new_tokens=40, seed=1)
>>> completion.finish_reason
'length'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cpm_gen.errors import (
    CheckpointError,
    ConfigError,
    CpmGenError,
    InputError,
    NumericsError,
    RankError,
    TokenizerError,
)

if TYPE_CHECKING:
    from cpm_gen.config.options import ModelOptions as ModelOptions
    from cpm_gen.config.options import SamplingParams as SamplingParams
    from cpm_gen.config.options import TextOptions as TextOptions
    from cpm_gen.engine.window import Window as Window
    from cpm_gen.llm import LLM, load
    from cpm_gen.outputs import Chunk as Chunk
    from cpm_gen.outputs import Completion
    from cpm_gen.outputs import Sentence as Sentence
    from cpm_gen.outputs import Timing as Timing
    from cpm_gen.runtime.reshard import reshard
    from cpm_gen.runtime.rewrite import Candidate as Candidate
    from cpm_gen.runtime.rewrite import Rewrites as Rewrites
    from cpm_gen.text.cpm_tokenizer import Tokenizer
    from cpm_gen.text.forms.form import Form as Form
    from cpm_gen.text.stories.story import Chapter as Chapter
    from cpm_gen.text.stories.story import Lore as Lore
    from cpm_gen.text.stories.story import Story as Story

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "CheckpointError",
    "Completion",
    "ConfigError",
    "CpmGenError",
    "InputError",
    "NumericsError",
    "RankError",
    "Tokenizer",
    "TokenizerError",
    "load",
    "reshard",
]

# Importing torch takes a second, so public names are imported on first use.
_LAZY = {
    "LLM": "llm",
    "load": "llm",
    "reshard": "runtime.reshard",
    "Candidate": "runtime.rewrite",
    "Rewrites": "runtime.rewrite",
    "Chunk": "outputs",
    "Completion": "outputs",
    "Sentence": "outputs",
    "Timing": "outputs",
    "ModelOptions": "config.options",
    "SamplingParams": "config.options",
    "TextOptions": "config.options",
    "Form": "text.forms.form",
    "Chapter": "text.stories.story",
    "Lore": "text.stories.story",
    "Story": "text.stories.story",
    "Tokenizer": "text.cpm_tokenizer",
    "Window": "engine.window",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"cpm_gen.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'cpm_gen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
