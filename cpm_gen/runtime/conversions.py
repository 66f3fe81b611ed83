"""Convert and export a model with its vocabulary: what a checkpoint needs beside it in the other program's form."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cpm_gen.checkpoints.convert import Beside, Kind, convert
from cpm_gen.checkpoints.formats.gguf_writer import export_gguf
from cpm_gen.checkpoints.gguf_vocabulary import Vocabulary
from cpm_gen.checkpoints.locate import model_folder, open_checkpoint
from cpm_gen.checkpoints.publish import Progress, no_progress
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import TokenizerError
from cpm_gen.text.cpm_tokenizer import Tokenizer
from cpm_gen.text.export_tokenizer import gguf_vocabulary, tokenizer_json
from cpm_gen.text.find_tokenizer import (
    NoVocabulary,
    find_tokenizer,
    fitting_tokenizer,
    found_as,
    is_found,
    vocabulary_file,
)
from cpm_gen.text.forms import bigrams
from cpm_gen.text.tokenizer import TextTokenizer

_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
# forms of the same vocabulary for other programs
_VOCABULARIES = ("chinese_vocab.model", "vocab.json", "spiece.model", "vocab.txt", "merges.txt", "tokenizer.json")

_README = """# A CPM-1 model

Written by cpm-gen. Open it with `cpm-gen generate --model FOLDER`, or its weights with transformers' `GPT2LMHeadModel`.

**Do not encode texts with transformers' `CpmTokenizer`.** It does not give the ids that this model was trained with: on most texts they
differ, because it cuts words in another way, normalises the text by NFKD and loses newlines, and it adds an id that the network has no row
for. No `tokenizer.json` can cut words as jieba does, so this folder has none. `cpm-gen tokenize --tokenizer FOLDER` gives the right ids.
"""


def convert_model(
    options: ModelOptions,
    target: Path,
    to: Kind,
    *,
    degree: int = 1,
    dtype: torch.dtype | None = None,
    force: bool = False,
    iteration: str | None = None,
    progress: Progress = no_progress,
) -> list[str]:
    """Convert ``options.model``; see :func:`cpm_gen.checkpoints.convert.convert`. Returns what a person should know about the result."""
    folder = model_folder(options.model)
    notes: list[str] = []
    beside = _beside(options, to, notes)
    convert(
        folder,
        target,
        to,
        degree=degree,
        dtype=dtype,
        heads=options.heads,
        force=force,
        beside=beside,
        iteration=iteration,
        progress=progress,
    )
    return notes


def _beside(options: ModelOptions, to: Kind, notes: list[str]) -> Beside:
    """What the new folder needs besides weights."""
    files = vocabulary_files(options)
    try:
        vocabulary_file(options)
    except NoVocabulary:
        notes.append("no vocabulary lies beside the model, so the new folder has none; give --tokenizer DIR to add one")
        return Beside(files, token_ids={"bos_token_id": None, "eos_token_id": None})
    if to != "hf":
        return Beside(files)
    tokenizer = find_tokenizer(options)
    ids = {"bos_token_id": tokenizer.start, "eos_token_id": tokenizer.end}
    if not isinstance(tokenizer, Tokenizer):
        return Beside(files, token_ids=ids)
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eod, "pad_token_id": tokenizer.specials.get("<pad>")}
    files.pop("vocab.json", None)
    if tokenizer.uses_words:
        files.pop("tokenizer.json", None)
        notes.append("transformers cannot encode texts for this model: CpmTokenizer gives other ids; see its README.md")
        return Beside(files, {"README.md": _README}, ids)
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "eos_token": "<eod>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
    }
    texts = {
        "tokenizer.json": tokenizer_json(tokenizer),
        "tokenizer_config.json": json.dumps(described, indent=2) + "\n",
    }
    return Beside(files, texts, ids)


def vocabulary_files(options: ModelOptions) -> dict[str, Path]:
    """The vocabulary that :func:`find_tokenizer` takes and what belongs to it, by the names under which a new folder is to have them.

    Of a model without one, what its folder has of one.
    """
    names: tuple[str, ...] = (*_SETTINGS, *_VOCABULARIES, bigrams.FILE)
    try:
        file = vocabulary_file(options)
    except NoVocabulary:
        folder, found = model_folder(options.model), {}
    else:
        folder, found = file.parent, found_as(file)
        if not is_found(file):  # another one lies there, which would be found first in the new folder
            names = (*_SETTINGS, bigrams.FILE)
    return {name: folder / name for name in names if (folder / name).is_file()} | found


def export_model_as_gguf(
    options: ModelOptions,
    target: Path,
    *,
    ids_only: bool = False,
    dtype: torch.dtype | None = None,
    force: bool = False,
    progress: Progress = no_progress,
) -> list[str]:
    """Export ``options.model`` for llama.cpp; returns what a person should know about the result.

    Raises TokenizerError for a vocabulary that llama.cpp cannot encode with, unless ``ids_only``; else as
    :func:`cpm_gen.checkpoints.formats.gguf_writer.export_gguf`.
    """
    checkpoint = open_checkpoint(model_folder(options.model))
    vocabulary = None if ids_only else _vocabulary(options, checkpoint.vocabulary)
    export_gguf(checkpoint, target, vocabulary, heads=options.heads, dtype=dtype, force=force, progress=progress)
    return [
        f"llama.cpp is exact up to {checkpoint.positions:,} tokens. Past that it shifts stale keys (context shift), and the text "
        "decays; write longer texts with cpm-gen, or run llama.cpp with --no-context-shift"
    ]


def _vocabulary(options: ModelOptions, rows: int) -> Vocabulary:
    try:
        tokenizer: TextTokenizer = fitting_tokenizer(options, rows)
    except NoVocabulary as error:
        raise TokenizerError(f"{error}; or --ids-only, for a file that takes token ids alone") from None
    if not isinstance(tokenizer, Tokenizer):
        raise TokenizerError(
            f"a {tokenizer.kind} vocabulary cannot be written for llama.cpp here; give --ids-only for a file that takes token ids "
            "alone"
        )
    return gguf_vocabulary(tokenizer)
