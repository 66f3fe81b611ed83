"""Text to token ids and back, as CPM-1 does it.

Encoding (original: ``data_utils/tokenization_gpt2.py``): jieba cuts the text into words, spaces in them become ``▂`` and newlines ``▃``,
the words are joined by one space, SentencePiece makes ids. Decoding joins the pieces, drops every space, turns ``▂`` and ``▃`` back.
SentencePiece normalises (``，`` may become ``,``), so a text does not survive the round trip; ids do.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterable
from typing import Any

import sentencepiece

from cpm_gen.config.arguments import path_argument, shown, token_ids
from cpm_gen.config.user_folders import user_folder
from cpm_gen.errors import ConfigError, InputError, TokenizerError

VOCABULARY_FILE = "chinese_vocab.model"

SPECIAL_NAMES = ("<unk>", "<s>", "</s>", "<sep>", "<pad>", "<mask>", "<eod>")

_SPACE, _NEWLINE = "▂", "▃"
_OUT = str.maketrans({" ": _SPACE, "\n": _NEWLINE})
_BACK = str.maketrans({_SPACE: " ", _NEWLINE: "\n", "▁": None, " ": None})
_UNKNOWN = "⁇"  # what SentencePiece writes for an unknown piece
# the half-width forms are what the vocabulary's normaliser makes of the others
_SENTENCE_ENDS = (*"。！？…”!?\n", "...")

_jieba_lock = threading.Lock()


class Tokenizer:
    """CPM-1's tokenizer over the vocabulary in ``directory`` (or the ``.model`` file itself).

    Encoding and decoding are safe to call from several threads. Raises TokenizerError where the vocabulary is missing,
    damaged or lacks ``<eod>``.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        path = path_argument(directory, "the vocabulary's folder", TokenizerError)
        if path.is_dir() or path.suffix != ".model":
            path = path / VOCABULARY_FILE
        if not path.is_file():
            raise TokenizerError(f"{path}: no vocabulary there; --tokenizer takes the folder of {VOCABULARY_FILE}")
        self._sp = sentencepiece.SentencePieceProcessor()
        try:
            self._sp.LoadFromSerializedProto(path.read_bytes())
            self.size: int = self._sp.vocab_size()
        except OSError as error:
            raise TokenizerError(f"{path}: {error.strerror or error}") from None
        except (RuntimeError, ValueError) as error:
            raise TokenizerError(f"{path}: not a SentencePiece model ({' '.join(str(error).split())[:80]})") from None
        self.path = path
        self.eod = self.special("<eod>")

    def special(self, name: str) -> int:
        """The id of a special piece by name: ``<eod>``, ``<sep>``, ``<pad>``, … Raises TokenizerError if there is none."""
        if not isinstance(name, str):
            raise TokenizerError(f"the name of a piece must be text, not {shown(name)}")
        i: int = self._sp.piece_to_id(name)
        if self._sp.id_to_piece(i) != name:
            raise TokenizerError(f"{self.path}: the vocabulary has no piece {name!r}")
        return i

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, id for id the original's. Specials written in the text stay text.

        Raises InputError for lone surrogates, which no UTF-8 text holds.
        """
        if not isinstance(text, str):
            raise InputError(f"a text must be text, not {shown(text)}")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"the text holds a lone surrogate at character {error.start}; it is not UTF-8") from None
        words = _jieba().cut(text)
        ids: list[int] = self._sp.encode(" ".join(word.translate(_OUT) for word in words))
        return ids

    def encode_with_specials(self, text: str) -> list[int]:
        """Like :meth:`encode`, with the names of special pieces as their tokens: ``床前<sep>明月`` holds ``<sep>``."""
        pattern = "|".join(map(re.escape, self.specials))
        ids: list[int] = []
        for at, part in enumerate(re.split(f"({pattern})", text)):
            ids += [self.specials[part]] if at % 2 else self.encode(part)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ``ids``; the pieces of :class:`Detokenizer` joined. Raises InputError for ids outside the vocabulary."""
        detokenizer = Detokenizer(self)
        return "".join(detokenizer.push(i) for i in token_ids(ids, self.size - 1))

    def written(self, text: str) -> str | None:
        """``text`` as the vocabulary writes it (``，`` may become ``,``); None if it holds characters that have no piece."""
        ids = self._sp.encode(text.translate(_OUT))
        return None if any(self._sp.is_unknown(i) for i in ids) else "".join(self.surface(i) for i in ids)

    def unknown(self, text: str) -> list[str]:
        """The characters of ``text`` that the vocabulary has no piece for, in order, each once."""
        return [c for c in dict.fromkeys(text) if not c.isspace() and self.written(c) is None]

    def remarks(self, text: str, *, as_text: bool) -> list[str]:
        """What the writer of ``text`` should know: characters without a piece, and special pieces' names read ``as_text``."""
        found = []
        if self.written(text) is None and (unknown := self.unknown(text)):
            listed = "".join(unknown[:20]) + ("…" if len(unknown) > 20 else "")
            found.append(f"the vocabulary has no piece for these characters, which are read as <unk>: {listed}")
        names = [name for name in self.specials if name in text] if as_text else []
        if names:
            found.append(f"{', '.join(names)} is read as text; --special-pieces reads it as its token")
        return found

    @functools.cached_property
    def specials(self) -> dict[str, int]:
        """The ids of the special pieces by name, as far as the vocabulary has them."""
        ids = {name: self._sp.piece_to_id(name) for name in SPECIAL_NAMES}
        return {name: i for name, i in ids.items() if self._sp.id_to_piece(i) == name}

    def surface(self, i: int) -> str:
        """What id ``i`` adds to a decoded text, spaces and newlines already turned back."""
        if type(i) is not int:
            (i,) = token_ids([i], self.size - 1)
        if not 0 <= i < self.size:
            raise InputError(f"token id {i} is outside the vocabulary (0 to {self.size - 1})")
        text: str = self._surface(i)
        return text

    @functools.cached_property
    def _surface(self) -> Any:
        sp = self._sp

        @functools.cache
        def surface(i: int) -> str:
            if sp.is_unknown(i):
                return _UNKNOWN
            if sp.is_control(i):
                return ""
            piece: str = sp.id_to_piece(i)
            return piece.translate(_BACK)

        return surface

    def boundary_ids(self, boundary: str) -> frozenset[int] | None:
        """Ids after which a window may begin (see :mod:`cpm_gen.engine.window`); None for any."""
        if boundary == "token":
            return None
        if boundary == "eod":
            return frozenset({self.eod})
        return self._sentence_ids

    @functools.cached_property
    def _sentence_ids(self) -> frozenset[int]:
        ends = {self.eod}
        for i in range(self.size):
            if self.surface(i).endswith(_SENTENCE_ENDS):
                ends.add(i)
        return frozenset(ends)


class Detokenizer:
    """Decodes one token at a time; what :meth:`push` returns joins to what :meth:`Tokenizer.decode` gives.

    ``eod_text`` replaces the text of ``<eod>`` (the lyric style reads it as a newline).
    """

    def __init__(self, tokenizer: Tokenizer, eod_text: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._eod_text = eod_text

    def push(self, i: int) -> str:
        """The text that token ``i`` adds; empty for control pieces."""
        if i == self._tokenizer.eod and self._eod_text is not None:
            return self._eod_text
        return self._tokenizer.surface(i)


@functools.lru_cache(maxsize=1)
def _load_jieba() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba's own: escape sequences, pkg_resources
        import jieba
    jieba.setLogLevel(logging.CRITICAL + 1)  # it logs its start and a cache it cannot write, both harmless
    cutter = jieba.Tokenizer()
    cutter.tmp_dir = _cache_dir()
    cutter.initialize()
    return cutter


def _jieba() -> Any:
    with _jieba_lock:
        return _load_jieba()


def _cache_dir() -> str:
    """Return the user's folder for jieba's dictionary cache. In the shared temporary folder another user could replace the file."""
    try:
        folder = user_folder("cache")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return str(folder)
    except (OSError, ConfigError):
        return os.devnull  # without a cache jieba builds its dictionary at each start, which takes a second
