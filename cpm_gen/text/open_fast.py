"""Open the vocabularies that go through ``tokenizers``; see :mod:`cpm_gen.text.find_tokenizer` for which one is chosen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from cpm_gen.config.arguments import one_line
from cpm_gen.errors import TokenizerError
from cpm_gen.text.fast_tokenizer import FastTokenizer, Found, library
from cpm_gen.text.special_tokens import SpecialTokens, read_special_tokens
from cpm_gen.text.vocabulary_files import read_lines, read_object_and_text, read_pieces

T = TypeVar("T")

_BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
_GPT_2 = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")


def open_bert(path: Path, model: Path | None = None) -> FastTokenizer:
    """BERT's tokenizer over a ``vocab.txt``: one piece a line. Lower-cases where ``tokenizer_config.json`` does not say otherwise."""
    tokenizers = library(path)
    tokens = read_special_tokens(path.parent, model)
    pieces = read_lines(path)
    while pieces and not pieces[-1]:  # empty lines at the end are no rows of the network
        pieces.pop()
    if not pieces:
        raise TokenizerError(f"{path}: holds no piece; it must have one a line")
    names = {**_BERT, **tokens.named}
    if names["unk_token"] not in pieces:
        raise TokenizerError(f"{path}: has no line {names['unk_token']}, so it is not a vocabulary of BERT")
    vocabulary = {piece: i for i, piece in enumerate(pieces)}

    def build() -> Any:
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token=names["unk_token"]))
        tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=tokens.flag("tokenize_chinese_chars", True),
            strip_accents=tokens.settings.get("strip_accents"),
            lowercase=tokens.flag("do_lower_case", True),
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        return tokenizer

    tokenizer = _built(path, build)
    _add(tokenizers, tokenizer, tokens, names, path)
    return FastTokenizer(Found("BERT", path, tokenizer, tokens, "words", _BERT))


def open_byte_level(path: Path, model: Path | None = None) -> FastTokenizer:
    """GPT-2's tokenizer over a ``vocab.json`` and the ``merges.txt`` beside it."""
    tokenizers = library(path)
    merges_path = path.with_name("merges.txt")
    if not merges_path.is_file():
        raise TokenizerError(f"{merges_path}: missing; {path.name} is a byte-level vocabulary only together with it")
    tokens = read_special_tokens(path.parent, model)
    vocabulary = read_pieces(path)
    merges = _merges(merges_path, vocabulary)

    def build() -> Any:
        tokenizer = tokenizers.Tokenizer(
            tokenizers.models.BPE(vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="")
        )
        spaced = tokens.flag("add_prefix_space", False)
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=spaced)
        return tokenizer

    tokenizer = _built(path, build)
    _add(tokenizers, tokenizer, tokens, {**_GPT_2, **tokens.named}, path)
    return FastTokenizer(Found("byte-level BPE", path, tokenizer, tokens, "bytes", _GPT_2))


def open_json(path: Path, model: Path | None = None) -> FastTokenizer:
    """The tokenizer in a ``tokenizer.json``, which is complete in itself."""
    tokenizers = library(path)
    tokens = read_special_tokens(path.parent, model)
    content, text = read_object_and_text(path)
    if not isinstance(content.get("model"), dict):
        raise TokenizerError(f"{path}: has no 'model', so it is not a tokenizer.json")

    def build() -> Any:
        tokenizer = tokenizers.Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    tokenizer = _built(path, build)
    decoder = content.get("decoder")
    kind = decoder.get("type") if isinstance(decoder, dict) else None
    _add(tokenizers, tokenizer, tokens, tokens.named, path)
    if kind == "WordPiece":
        prefix = str(decoder.get("prefix", "##")) if isinstance(decoder, dict) else "##"
        return FastTokenizer(Found("tokenizer.json", path, tokenizer, tokens, "words", _BERT, prefix))
    if kind == "ByteLevel":
        return FastTokenizer(Found("tokenizer.json", path, tokenizer, tokens, "bytes", {}))
    unknown = content["model"].get("unk_token")
    names = {"unk_token": unknown} if isinstance(unknown, str) else {"unk_token": "<unk>"}
    return FastTokenizer(Found("tokenizer.json", path, tokenizer, tokens, "joined", names))


def _built(path: Path, build: Callable[[], T]) -> T:
    """What ``build`` makes; raises TokenizerError for what the library refuses, also by a panic."""
    try:
        return build()
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            said = one_line(error, 120)
            raise TokenizerError(f"{path}: not a vocabulary of its kind ({said}); download it again") from None
        raise


def _merges(path: Path, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """The pairs in a ``merges.txt``, in their order; raises TokenizerError for one whose pieces the vocabulary lacks."""
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise TokenizerError(f"{path}: line {number} must hold two pieces with a space between them")
        first, second = parts
        if not {first, second, first + second} <= vocabulary.keys():
            raise TokenizerError(f"{path}: line {number} merges pieces that vocab.json does not have")
        pairs.append((first, second))
    return pairs


def _add(tokenizers: Any, tokenizer: Any, tokens: SpecialTokens, names: Mapping[str, str], path: Path) -> None:
    """Add the special tokens to ``tokenizer``, so that a text's are found; those without a row get none.

    Raises TokenizerError for an added token whose id is another piece's.
    """
    size = tokenizer.get_vocab_size()
    for i, piece in sorted(tokens.added.items()):
        there = tokenizer.token_to_id(piece.content)
        if there is None and i == size:
            size += 1  # the next row
        elif there != i:
            raise TokenizerError(
                f"{path.parent}: the added token {piece.content!r} has id {i}, which the vocabulary does not give it"
            )
        flags = dict(piece.flags) | {"special": piece.special}
        token = tokenizers.AddedToken(piece.content, **flags)
        (tokenizer.add_special_tokens if piece.special else tokenizer.add_tokens)([token])
    known = {piece.content for piece in tokens.added.values()}
    for name in dict.fromkeys((*names.values(), *tokens.extra)):
        if name not in known and tokenizer.token_to_id(name) is not None and not re.fullmatch(r"\s*", name):
            tokenizer.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False)])
