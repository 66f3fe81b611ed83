"""Small vocabularies of every kind, made by the tests themselves, and the folders of shared/hf where they are there."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.reference_data import reference_folder

CHARACTERS = "床前明月光，。疑是地上霜举头望低思故乡春眠不觉晓处闻啼鸟夜来风雨声花落知多少！？"
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "moon", "is", "it", "a", "model", "2", "s", "##s", "##0", "##19", "'", ",", "?", "-", "un", "##known"]


def bert(folder: Path, *, files: dict[str, Any] | None = None, pieces: list[str] | None = None) -> Path:
    """A folder with a ``vocab.txt``, and JSON files beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [*SPECIALS, *CHARACTERS, *WORDS] if pieces is None else pieces
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in lines), encoding="utf-8")
    return _with(folder, files)


def byte_level(folder: Path, *, files: dict[str, Any] | None = None, whole: bool = False) -> Path:
    """A folder with ``vocab.json`` and ``merges.txt`` (whole: with a ``tokenizer.json`` instead), trained on a few verses."""
    tokenizers = pytest.importorskip("tokenizers")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    text = ["床前明月光，疑是地上霜。\n举头望明月，低头思故乡。", "春眠不觉晓，处处闻啼鸟。the moon, the moon 😀"]
    tokenizer.train_from_iterator(
        text * 4, vocab_size=360, min_frequency=2, special_tokens=["<|endoftext|>"], show_progress=False
    )
    if whole:
        tokenizer.save(str(folder / "tokenizer.json"))
    else:
        tokenizer.save_model(str(folder))
    return _with(folder, files)


def _with(folder: Path, files: dict[str, Any] | None) -> Path:
    for name, content in (files or {}).items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return folder


def models_folder() -> Path:
    """The folder ``hf`` of shared reference data; skips without it."""
    return reference_folder("hf/ok/index.json") / "hf"
