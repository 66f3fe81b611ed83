"""Find the tokenizer that belongs to a checkpoint."""

from __future__ import annotations

from cpm_gen.checkpoints.locate import model_folder
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import TokenizerError
from cpm_gen.text.tokenizer import VOCABULARY_FILE, Tokenizer

_MOST_PADDING = 1024  # rows that a vocabulary may be padded by


def find_tokenizer(options: ModelOptions) -> Tokenizer:
    """The tokenizer asked for, or the one that lies with the checkpoint; raises TokenizerError."""
    if options.tokenizer is not None:
        return Tokenizer(options.tokenizer)
    folder = model_folder(options.model)
    for place in (folder, folder / "tokenizer", folder / "vocab", folder.resolve().parent):
        if (place / VOCABULARY_FILE).is_file():
            return Tokenizer(place)
    raise TokenizerError(f"{folder}: no {VOCABULARY_FILE} beside the checkpoint; give --tokenizer DIR")


def fitting_tokenizer(options: ModelOptions, vocabulary: int) -> Tokenizer:
    """What :func:`find_tokenizer` finds, for a network with so many rows of word embedding; raises TokenizerError where they do not fit."""
    tokenizer = find_tokenizer(options)
    if not 0 <= vocabulary - tokenizer.size <= _MOST_PADDING:
        raise TokenizerError(
            f"{tokenizer.path}: {tokenizer.size} pieces, but the checkpoint's vocabulary has {vocabulary}; "
            "they do not belong together"
        )
    return tokenizer
