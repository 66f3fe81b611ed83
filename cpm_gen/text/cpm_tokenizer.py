"""CPM-1's tokenizer.

Its encoding (original: ``data_utils/tokenization_gpt2.py``): jieba cuts the text into words, spaces in them become ``▂`` and
newlines ``▃``, the words are joined by one space, SentencePiece makes ids. Decoding joins the pieces, drops every space, turns ``▂``
and ``▃`` back. SentencePiece normalises (``，`` may become ``,``), so a text does not survive the round trip; ids do.
"""

from __future__ import annotations

import functools
import os
import re
from typing import Any

import sentencepiece

from cpm_gen.config.arguments import path_argument, shown, token_ids
from cpm_gen.errors import TokenizerError
from cpm_gen.text import jieba_words
from cpm_gen.text.tokenizer import TextDecoder, TextTokenizer, checked_text, outside
from cpm_gen.text.vocabulary_files import foreign, read_vocabulary

VOCABULARY_FILE = "chinese_vocab.model"
CPM_FILES = (VOCABULARY_FILE, "spiece.model")  # the second is its name in Hugging Face folders

SPECIAL_NAMES = ("<unk>", "<s>", "</s>", "<sep>", "<pad>", "<mask>", "<eod>")

SPACE, NEWLINE = "▂", "▃"
_OUT = str.maketrans({" ": SPACE, "\n": NEWLINE})
_BACK = str.maketrans({SPACE: " ", NEWLINE: "\n", "▁": None, " ": None})
_UNKNOWN = "⁇"  # what SentencePiece writes for an unknown piece


class Tokenizer(TextTokenizer):
    """CPM-1's tokenizer over the vocabulary in ``directory`` (or the ``.model`` file itself).

    Encoding and decoding are safe to call from several threads. Raises TokenizerError where the vocabulary is missing,
    damaged or lacks ``<eod>``.
    """

    kind = "CPM"
    ends_texts = False  # <eod> also ends lines
    opens_prompts = False
    newlines = True

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        path = path_argument(directory, "the vocabulary's folder", TokenizerError)
        if path.is_dir() or path.suffix != ".model":
            path = next((path / name for name in CPM_FILES if (path / name).is_file()), path / VOCABULARY_FILE)
        if not path.is_file():
            raise TokenizerError(f"{path}: no vocabulary there; --tokenizer takes the folder of {VOCABULARY_FILE}")
        self._sp = sentencepiece.SentencePieceProcessor()
        content = read_vocabulary(path)
        try:
            self._sp.LoadFromSerializedProto(content)
            self.size: int = self._sp.vocab_size()
            self._sp.id_to_piece(list(range(self.size)))  # UnicodeDecodeError, a ValueError, if one is not UTF-8
        except (RuntimeError, ValueError):
            # not before: the first bytes of a vocabulary can look like another kind of file
            what = foreign(content) or "not a SentencePiece model, or a damaged one; copy or download it again"
            raise TokenizerError(f"{path}: {what}") from None
        self.path = path
        self.eod = self.start = self.end = self.line_end = self.special("<eod>")
        self.unk: int | None = self._sp.unk_id()

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
        words = jieba_words.cut(checked_text(text))
        ids: list[int] = self._sp.encode(" ".join(word.translate(_OUT) for word in words))
        return ids

    def encode_with_specials(self, text: str) -> list[int]:
        """Like :meth:`encode`, with the names of special pieces as their tokens: ``床前<sep>明月`` holds ``<sep>``."""
        pattern = "|".join(map(re.escape, self.specials))
        ids: list[int] = []
        for at, part in enumerate(re.split(f"({pattern})", checked_text(text))):
            ids += [self.specials[part]] if at % 2 else self.encode(part)
        return ids

    def written(self, text: str) -> str | None:
        """``text`` as the vocabulary writes it (``，`` may become ``,``); None if it holds characters that have no piece."""
        ids = self._sp.encode(checked_text(text).translate(_OUT))
        return None if any(self._sp.is_unknown(i) for i in ids) else "".join(self.surface(i) for i in ids)

    def remarks(self, text: str, *, as_text: bool) -> list[str]:
        """What the writer of ``text`` should know: characters without a piece, and special pieces' names read ``as_text``."""
        pattern = "|".join(map(re.escape, self.specials))
        found = super().remarks(text if as_text else re.sub(pattern, "", text), as_text=as_text)
        names = [name for name in self.specials if name in text] if as_text else []
        if names:
            found.append(f"{', '.join(names)} is read as text; --special-pieces reads it as its token")
        return found

    @functools.cached_property
    def specials(self) -> dict[str, int]:
        """The ids of the special pieces by name, as far as the vocabulary has them."""
        ids = {name: self._sp.piece_to_id(name) for name in SPECIAL_NAMES}
        return {name: i for name, i in ids.items() if self._sp.id_to_piece(i) == name}

    @property
    def uses_words(self) -> bool:
        """Whether jieba's words matter to the ids: they do unless the vocabulary's normaliser drops spaces."""
        return bool(self._sp.normalize("字 字") != self._sp.normalize("字字"))

    @property
    def breaks(self) -> frozenset[int]:
        """``<eod>``, also where another token ends texts."""
        return frozenset({self.eod})

    def decoder(self) -> TextDecoder:
        """A decoder; tokens do not depend on each other."""
        return _Surfaces(self)

    def surface(self, i: int) -> str:
        """What id ``i`` adds to a decoded text, spaces and newlines already turned back."""
        if type(i) is not int:
            (i,) = token_ids([i], self.size - 1)
        if not 0 <= i < self.size:
            raise outside(i, self.size)
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


class _Surfaces:
    """Decodes tokens that do not depend on each other."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.push = tokenizer.surface

    def flush(self) -> str:
        return ""
