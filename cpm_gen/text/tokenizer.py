"""Text to token ids and back: what a tokenizer of any kind does."""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, Self

from cpm_gen.config.arguments import shown, token_ids
from cpm_gen.errors import InputError

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
        """``text`` as the vocabulary writes it (``，`` may become ``,``); None if it holds characters that have no piece.

        Raises InputError for lone surrogates.
        """

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
        for name in ("_line_ids", "_sentence_ids"):
            vars(changed).pop(name, None)
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

    @functools.cached_property
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
