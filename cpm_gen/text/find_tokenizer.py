"""Find the tokenizer that belongs to a model, by the files in its folder.

The first of these that a folder has is taken: ``chinese_vocab.model`` or ``spiece.model`` (CPM's), ``tokenizer.json``,
``vocab.json`` with ``merges.txt`` (byte-level BPE), ``vocab.txt`` (BERT). CPM's come first because a folder of CPM may also hold
what other programs made of it.
"""

from __future__ import annotations

from pathlib import Path

from cpm_gen.checkpoints.locate import model_folder, no_such_folder
from cpm_gen.config.arguments import path_argument
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import TokenizerError
from cpm_gen.text.cpm_tokenizer import CPM_FILES, VOCABULARY_FILE, Tokenizer
from cpm_gen.text.open_fast import open_bert, open_byte_level, open_json
from cpm_gen.text.tokenizer import TextTokenizer

_MOST_PADDING = 1024  # rows that a vocabulary may be padded by
_KINDS = "chinese_vocab.model, spiece.model, tokenizer.json, vocab.json with merges.txt, or vocab.txt"


class NoVocabulary(TokenizerError):
    """There is none beside the model, and none was named."""


def find_tokenizer(options: ModelOptions) -> TextTokenizer:
    """The tokenizer asked for, or the one that lies with the model; raises TokenizerError, CheckpointError without a model's folder.

    ``options.start_token`` and ``options.end_token`` replace those that its files name.
    """
    return _open(vocabulary_file(options), _folder(options)).with_tokens(options.start_token, options.end_token)


def vocabulary_file(options: ModelOptions) -> Path:
    """The file that :func:`find_tokenizer` opens; raises TokenizerError if there is none."""
    return _beside(_folder(options)) if options.tokenizer is None else _named(options.tokenizer)


def found_as(file: Path) -> dict[str, Path]:
    """The files of a vocabulary, by the names under which it is found in a folder."""
    if file.name in ("vocab.json", "merges.txt"):
        return {name: file.with_name(name) for name in ("vocab.json", "merges.txt")}
    if file.name in CPM_FILES:
        return {file.name: file}
    return {{".model": VOCABULARY_FILE, ".json": "tokenizer.json", ".txt": "vocab.txt"}[file.suffix]: file}


def is_found(file: Path) -> bool:
    """Whether this is the vocabulary that is taken of its folder."""
    return _vocabulary(file.parent) == file


def _folder(options: ModelOptions) -> Path:
    folder = model_folder(options.model)
    if options.tokenizer is None and not folder.exists():
        raise no_such_folder(folder)
    return folder.parent if folder.is_file() else folder  # a model in one file, such as an ONNX file


def _beside(folder: Path) -> Path:
    for place in (folder, folder / "tokenizer", folder / "vocab"):
        if (file := _vocabulary(place)) is not None:
            return file
    for name in CPM_FILES:  # beside a folder of shards
        if (file := folder.resolve().parent / name).is_file():
            return file
    raise NoVocabulary(
        f"{folder}: no {VOCABULARY_FILE} beside the checkpoint, nor another vocabulary; give --tokenizer DIR with {_KINDS}"
    )


def open_tokenizer(path: str | Path, model: Path | None = None) -> TextTokenizer:
    """The tokenizer in a folder, or in a file of one of the kinds; raises TokenizerError.

    model: the model's folder, whose ``config.json`` may name the tokens that begin and end a text.
    """
    return _open(_named(path), model)


def _named(path: str | Path) -> Path:
    """The file of a vocabulary that is named by its folder or itself."""
    path = path_argument(path, "the vocabulary's folder", TokenizerError)
    file = path if path.is_file() else _vocabulary(path)
    if file is None:
        raise TokenizerError(f"{path}: no vocabulary there; --tokenizer takes a file or the folder of {_KINDS}")
    if file.suffix not in (".model", ".json", ".txt"):
        raise TokenizerError(f"{file}: not a vocabulary's name; --tokenizer takes {_KINDS}")
    return file


def _vocabulary(folder: Path) -> Path | None:
    """The file in ``folder`` that is taken."""
    for name in (*CPM_FILES, "tokenizer.json", "vocab.json", "vocab.txt"):
        if (folder / name).is_file() and (name != "vocab.json" or (folder / "merges.txt").is_file()):
            return folder / name
    return None


def _open(file: Path, model: Path | None) -> TextTokenizer:
    if file.suffix == ".txt" and file.name != "merges.txt":
        return open_bert(file, model)
    if file.name in ("vocab.json", "merges.txt"):
        return open_byte_level(file.with_name("vocab.json"), model)
    if file.suffix == ".json":
        return open_json(file, model)
    return Tokenizer(file)


def fitting_tokenizer(options: ModelOptions, vocabulary: int) -> TextTokenizer:
    """What :func:`find_tokenizer` finds, for a word embedding of ``vocabulary`` rows; raises TokenizerError if they do not fit."""
    tokenizer = find_tokenizer(options)
    if not 0 <= vocabulary - tokenizer.size <= _MOST_PADDING:
        raise TokenizerError(
            f"{tokenizer.path}: {tokenizer.size} pieces, but the checkpoint's vocabulary has {vocabulary}; "
            "they do not belong together"
        )
    return tokenizer
