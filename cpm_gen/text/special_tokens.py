"""Special tokens as the files beside a vocabulary name them.

``special_tokens_map.json`` and ``tokenizer_config.json`` name them (the second wins, as in transformers); ``added_tokens.json`` and
``added_tokens_decoder`` of ``tokenizer_config.json`` give ids. ``config.json`` of the model is asked last: its ``bos_token_id`` and
``eos_token_id`` are often left over from another vocabulary, so they count only where the vocabulary has such a special token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpm_gen.errors import TokenizerError
from cpm_gen.text.vocabulary_files import read_object

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")


@dataclass(frozen=True)
class AddedPiece:
    """A piece beside the vocabulary proper. flags: how ``tokenizers`` finds it in a text."""

    content: str
    special: bool = True
    flags: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class SpecialTokens:
    """What the files say. named: by the name of their purpose, such as ``sep_token``. added: by id, and without one.

    settings: the rest of ``tokenizer_config.json``. first, last: ``bos_token_id`` and ``eos_token_id`` of ``config.json``.
    """

    named: Mapping[str, str] = field(default_factory=dict)
    added: Mapping[int, AddedPiece] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    first: int | None = None
    last: int | None = None

    def flag(self, name: str, default: bool) -> bool:
        """A setting that is true or false; the default where it is missing or null."""
        value = self.settings.get(name)
        return default if value is None else bool(value)


def read_special_tokens(folder: Path, model: Path | None = None) -> SpecialTokens:
    """Read the files in the vocabulary's ``folder``, and the model's ``config.json``; raises TokenizerError that names one."""
    config = _object(folder / "tokenizer_config.json")
    named: dict[str, str] = {}
    extra: list[str] = []
    for source, path in (
        (_object(folder / "special_tokens_map.json"), folder / "special_tokens_map.json"),
        (config, folder / "tokenizer_config.json"),
    ):
        for name in _NAMES:
            if source.get(name) is not None:
                named[name] = _content(source[name], path, name)
        for name in ("additional_special_tokens", "extra_special_tokens"):
            if isinstance(source.get(name), list):
                extra += [_content(entry, path, name) for entry in source[name]]
    added = _added(folder, config)
    ids = _ids(folder if model is None else model)
    return SpecialTokens(named, added, tuple(dict.fromkeys(extra)), config, *ids)


def _object(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _content(value: Any, path: Path, name: str) -> str:
    """The text of a token, written as text or as an object with ``content``."""
    content = value.get("content") if isinstance(value, dict) else value
    if not isinstance(content, str) or not content:
        raise TokenizerError(f"{path}: {name} must be a piece of the vocabulary as text")
    return content


def _added(folder: Path, config: Mapping[str, Any]) -> dict[int, AddedPiece]:
    found: dict[int, AddedPiece] = {}
    path = folder / "added_tokens.json"
    for piece, i in _object(path).items():
        if type(i) is not int or i < 0:
            raise TokenizerError(f"{path}: the id of {piece!r} must be a whole number")
        found[i] = AddedPiece(piece, special=False, flags={"normalized": False})
    path = folder / "tokenizer_config.json"
    decoder = config.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise TokenizerError(f"{path}: added_tokens_decoder must be an object")
    for word, entry in decoder.items():
        if not word.isdecimal() or len(word) > 9 or not isinstance(entry, dict):
            raise TokenizerError(f"{path}: added_tokens_decoder must map ids to tokens, not {word[:40]!r}")
        flags = {name: bool(entry[name]) for name in _FLAGS if name in entry}
        found[int(word)] = AddedPiece(_content(entry, path, "added_tokens_decoder"), bool(entry.get("special")), flags)
    return found


def _ids(folder: Path) -> tuple[int | None, int | None]:
    """The two ids of ``config.json``. What is wrong in that file is the checkpoint's to say."""
    try:
        config = _object(folder / "config.json")
    except TokenizerError:
        return None, None
    first, last = config.get("bos_token_id"), config.get("eos_token_id")
    if isinstance(last, list) and last:
        last = last[0]
    return first if type(first) is int else None, last if type(last) is int else None
