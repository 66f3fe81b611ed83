"""Where a model and its tokenizer lie."""

from __future__ import annotations

from pathlib import Path

from cpm_gen.config import ModelOptions
from cpm_gen.errors import TokenizerError
from cpm_gen.tokenizer import VOCABULARY_FILE, Tokenizer

EMBEDDED = Path(__file__).parent / "embedded"


def model_folder(model: str | None) -> Path:
    """The folder that ``--model`` names."""
    return EMBEDDED if model in (None, "embedded") else Path(str(model))


def find_tokenizer(options: ModelOptions) -> Tokenizer:
    """The tokenizer asked for, or the one that lies with the checkpoint; raises TokenizerError."""
    if options.tokenizer is not None:
        return Tokenizer(options.tokenizer)
    folder = model_folder(options.model)
    for place in (folder, folder / "tokenizer", folder / "vocab", folder.resolve().parent):
        if (place / VOCABULARY_FILE).is_file():
            return Tokenizer(place)
    raise TokenizerError(f"{folder}: no {VOCABULARY_FILE} beside the checkpoint; give --tokenizer DIR")
