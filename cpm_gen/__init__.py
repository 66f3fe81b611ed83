"""cpm-gen: Chinese lyrics and novels of any length with CPM-1.

>>> import cpm_gen
>>> with cpm_gen.load() as llm:
...     completion = llm.generate("明月几时有", style="lyric", max_new_tokens=40, seed=1)
>>> completion.finish_reason
'length'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cpm_gen.config import ModelOptions, SamplingParams, TextOptions
from cpm_gen.errors import (
    CheckpointError,
    ConfigError,
    CpmGenError,
    InputError,
    NumericsError,
    RankError,
    TokenizerError,
)
from cpm_gen.window import Window

if TYPE_CHECKING:
    from cpm_gen.app import LLM, load
    from cpm_gen.reshard import reshard
    from cpm_gen.results import Chunk, Completion, Timing
    from cpm_gen.tokenizer import Tokenizer

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "CheckpointError",
    "Chunk",
    "Completion",
    "ConfigError",
    "CpmGenError",
    "InputError",
    "ModelOptions",
    "NumericsError",
    "RankError",
    "SamplingParams",
    "TextOptions",
    "Timing",
    "Tokenizer",
    "TokenizerError",
    "Window",
    "load",
    "reshard",
]

# torch takes a second to import; `cpm-gen --help` and `cpm-gen tokenize` do without it
_LAZY = {
    "LLM": "app",
    "Chunk": "results",
    "Completion": "results",
    "Timing": "results",
    "load": "app",
    "reshard": "reshard",
    "Tokenizer": "tokenizer",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"cpm_gen.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'cpm_gen' has no attribute {name!r}")
