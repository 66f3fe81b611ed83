"""Text to token ids and back: what a tokenizer of any kind does, and CPM-1's.

CPM-1's encoding (original: ``data_utils/tokenization_gpt2.py``): jieba cuts the text into words, spaces in them become ``▂`` and
newlines ``▃``, the words are joined by one space, SentencePiece makes ids. Decoding joins the pieces, drops every space, turns ``▂``
and ``▃`` back. SentencePiece normalises (``，`` may become ``,``), so a text does not survive the round trip; ids do.
"""

from __future__ import annotations

import copy
import functools
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import sentencepiece

from cpm_gen.config.arguments import one_line, path_argument, shown, token_ids
from cpm_gen.errors import InputError, TokenizerError
from cpm_gen.text import jieba_words
from cpm_gen.text.vocabulary_files import read_vocabulary

VOCABULARY_FILE = "chinese_vocab.model"
CPM_FILES = (VOCABULARY_FILE, "spiece.model")  # the second is its name in Hugging Face folders

SPECIAL_NAMES = ("<unk>", "<s>", "</s>", "<sep>", "<pad>", "<mask>", "<eod>")

SPACE, NEWLINE = "▂", "▃"
_OUT = str.maketrans({" ": SPACE, "\n": NEWLINE})
_BACK = str.maketrans({SPACE: " ", NEWLINE: "\n", "▁": None, " ": None})
_UNKNOWN = "⁇"  # what SentencePiece writes for an unknown piece
# the half-width forms are what the vocabulary's normaliser makes of the others
_SENTENCE_ENDS = (*"。！？…”!?\n", "...")


class TextDecoder(Protocol):
    """Decodes one token at a time. A character in several tokens comes out with the last of them."""

    def push(self, i: int) -> str:
        """The text that is certain after token ``i``; raises InputError for an id outside the vocabulary."""

    def flush(self) -> str:
        """What was held back, as far as it is text, at the end or before something else. The next token begins afresh."""


class TextTokenizer(ABC):
    """A tokenizer of any kind. Safe to use from several threads.

    kind: in words. path: the file it was read from; :func:`cpm_gen.text.find_tokenizer.open_tokenizer` opens it again. size: one
    more than the greatest id that has a piece; holes: ids below it that have none. start, end: ids that begin and end a text; None:
    there is none. ends_texts: whether ``end`` ends a generation that does not say otherwise. opens_prompts: whether ``start`` also
    begins prompts, in the styles lyric and novel. line_end: the id that ends a line; None where a newline is text like any other.
    newlines: whether a newline in a text survives encoding. unk: the id of unknown text.
    """

    kind: str
    path: Path
    size: int
    holes: frozenset[int] = frozenset()
    start: int | None
    end: int | None
    ends_texts: bool
    opens_prompts: bool
    line_end: int | None
    newlines: bool
    unk: int | None

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``. Raises InputError for lone surrogates, which no UTF-8 text holds."""

    @abstractmethod
    def encode_with_specials(self, text: str) -> list[int]:
        """Like :meth:`encode`, with the names of special pieces as their tokens: ``床前<sep>明月`` holds ``<sep>``."""

    @abstractmethod
    def decoder(self) -> TextDecoder:
        """A new incremental decoder."""

    @abstractmethod
    def surface(self, i: int) -> str:
        """What id ``i`` reads as by itself; raises InputError for an id outside the vocabulary."""

    @abstractmethod
    def special(self, name: str) -> int:
        """The id of a piece by name: ``<eod>``, ``[SEP]``, … Raises TokenizerError if there is none."""

    @property
    @abstractmethod
    def specials(self) -> Mapping[str, int]:
        """The ids of the special pieces by name."""

    @abstractmethod
    def written(self, text: str) -> str | None:
        """``text`` as the vocabulary writes it (``，`` may become ``,``); None if it holds characters that have no piece."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ``ids``; the pieces of :class:`Detokenizer` joined. Raises InputError for ids outside the vocabulary."""
        detokenizer = Detokenizer(self)
        pieces = [detokenizer.push(i) for i in token_ids(ids, self.size - 1)]
        return "".join(pieces) + detokenizer.flush()

    def name(self, i: int | None) -> str | None:
        """The name of a special token such as ``start`` and ``end``, as :meth:`special` takes it."""
        return None if i is None else next((name for name, at in self.specials.items() if at == i), self.surface(i))

    def with_tokens(self, start: str | None, end: str | None) -> Self:
        """The same tokenizer with other tokens that begin and end a text; raises TokenizerError for one that is no piece."""
        changed = copy.copy(self)
        vars(changed).pop("_sentence_ids", None)
        if start is not None:
            changed.start, changed.opens_prompts = self.special(start), True
        if end is not None:
            changed.end, changed.ends_texts = self.special(end), True
        return changed

    def without_text(self, vocabulary: int) -> list[int]:
        """Rows of a network with that many which have no piece; they are never written."""
        return [*sorted(self.holes), *range(self.size, vocabulary)]

    def unknown(self, text: str) -> list[str]:
        """The characters of ``text`` that the vocabulary has no piece for, in order, each once."""
        return [c for c in dict.fromkeys(text) if not c.isspace() and self.written(c) is None]

    def remarks(self, text: str, *, as_text: bool) -> list[str]:
        """What the writer of ``text`` should know: characters without a piece, and special pieces' names read ``as_text``."""
        found = []
        if self.written(text) is None and (unknown := self.unknown(text)):
            listed = "".join(unknown[:20]) + ("…" if len(unknown) > 20 else "")
            unk = self.name(self.unk)
            found.append(f"the vocabulary has no piece for these characters, which are read as {unk}: {listed}")
        return found

    @property
    def breaks(self) -> frozenset[int]:
        """Ids that end a line or a text: where a style shows lines, they read as a newline."""
        return frozenset(i for i in (self.line_end, self.end) if i is not None)

    def boundary_ids(self, boundary: str) -> frozenset[int] | None:
        """Ids after which a window may begin (see :mod:`cpm_gen.engine.window`); None for any."""
        if boundary == "token":
            return None
        return self._line_ids if boundary == "eod" else self._sentence_ids

    @property
    def _line_ids(self) -> frozenset[int]:
        return self.breaks if self.line_end is not None else self.breaks | self._ending_in(("\n",))

    @functools.cached_property
    def _sentence_ids(self) -> frozenset[int]:
        return self.breaks | self._ending_in(_SENTENCE_ENDS)

    def _ending_in(self, ends: tuple[str, ...]) -> frozenset[int]:
        return frozenset(i for i in range(self.size) if i not in self.holes and self.surface(i).endswith(ends))


class Detokenizer:
    """Decodes one token at a time; what :meth:`push` and :meth:`flush` return joins to what ``decode`` gives.

    ``eod_text`` replaces the text of tokens that end a line or a text, such as ``<eod>`` (the lyric style reads it as a newline).
    """

    def __init__(self, tokenizer: TextTokenizer, eod_text: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.decoder()
        self._texts = {} if eod_text is None else dict.fromkeys(tokenizer.breaks, eod_text)

    def push(self, i: int) -> str:
        """The text that token ``i`` adds; empty for control pieces, and inside a character."""
        text = self._texts.get(i)
        return self._decoder.push(i) if text is None else self._decoder.flush() + text

    def flush(self) -> str:
        """The rest of the text, after the last token."""
        return self._decoder.flush()

    def alone(self, i: int) -> str:
        """What token ``i`` reads as by itself."""
        text = self._texts.get(i)
        return self._tokenizer.surface(i) if text is None else text

    def can_show(self, text: str) -> bool:
        """Whether the replacement of line ends can show ``text``, which no other token writes."""
        return any(set(text) <= set(shown) for shown in self._texts.values() if shown)


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
        except (RuntimeError, ValueError) as error:
            raise TokenizerError(f"{path}: not a SentencePiece model ({one_line(error, 80)})") from None
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
        for at, part in enumerate(re.split(f"({pattern})", text)):
            ids += [self.specials[part]] if at % 2 else self.encode(part)
        return ids

    def written(self, text: str) -> str | None:
        """``text`` as the vocabulary writes it (``，`` may become ``,``); None if it holds characters that have no piece."""
        ids = self._sp.encode(text.translate(_OUT))
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


def checked_text(text: object) -> str:
    """``text``; raises InputError for another kind of value and for lone surrogates, which no UTF-8 text holds."""
    if not isinstance(text, str):
        raise InputError(f"a text must be text, not {shown(text)}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"the text holds a lone surrogate at character {error.start}; it is not UTF-8") from None
    return text


def outside(i: int, size: int) -> InputError:
    """The error for an id that no piece has."""
    return InputError(f"token id {shown(i)} is outside the vocabulary (0 to {size - 1})")
