"""Tokenizers of Hugging Face folders, through ``tokenizers``: BERT's ``vocab.txt``, byte-level BPE, and ``tokenizer.json``.

The ids are those of transformers. transformers is not needed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cpm_gen.config.arguments import one_line, shown, token_ids
from cpm_gen.errors import TokenizerError
from cpm_gen.text.decoders import ByteDecoder, JoinedDecoder, WordDecoder, piece_bytes
from cpm_gen.text.special_tokens import SpecialTokens
from cpm_gen.text.tokenizer import TextDecoder, TextTokenizer, checked_text, outside

Reading = Literal["bytes", "words", "joined"]  # how ids become text

_END_OF_TEXT = "<|endoftext|>"
_CPM_END = "<eod>"  # of our own vocabulary, exported as tokenizer.json


def library(path: Path) -> Any:
    """The module ``tokenizers``; raises TokenizerError that says how to install it."""
    try:
        import tokenizers
    except ImportError:
        raise TokenizerError(
            f"{path}: this kind of vocabulary needs tokenizers; in the checkout, pip install -c constraints.txt -e '.[hf]'"
        ) from None
    return tokenizers


@dataclass(frozen=True)
class Found:
    """A vocabulary that was read. tokens: what the files beside it say. tokenizer: of ``tokenizers``, complete.

    names: the names of the special tokens that a kind has where no file says so.
    """

    kind: str
    path: Path
    tokenizer: Any
    tokens: SpecialTokens
    reading: Reading
    names: Mapping[str, str]
    prefix: str = "##"


class FastTokenizer(TextTokenizer):
    """A tokenizer through ``tokenizers``. Specials written in a text are their tokens, as in transformers."""

    def __init__(self, found: Found) -> None:
        self.kind = found.kind
        self.path = found.path
        self._tokenizer = found.tokenizer
        self._reading = found.reading
        self._prefix = found.prefix
        vocabulary: dict[str, int] = found.tokenizer.get_vocab(with_added_tokens=True)
        self._pieces = {i: piece for piece, i in vocabulary.items()}
        if not self._pieces:
            raise TokenizerError(f"{found.path}: holds no piece")
        self.size = max(self._pieces) + 1
        if self.size > 2 * len(self._pieces) + 1024:
            raise TokenizerError(
                f"{found.path}: has ids up to {self.size - 1:,} for {len(self._pieces):,} pieces; it is damaged"
            )
        self.holes = frozenset(range(self.size)) - self._pieces.keys()
        added = found.tokenizer.get_added_tokens_decoder()
        self._added = frozenset(added)
        self._specials = {token.content: i for i, token in sorted(added.items()) if token.special}
        named = {**found.names, **found.tokens.named}
        self.unk = self._id(named.get("unk_token")) if found.reading != "bytes" else None
        self.start = self._first(named, ("bos_token", "cls_token"), found.tokens.first)
        self.end = self._first(named, ("eos_token", "sep_token"), found.tokens.last)
        eod = self._id(_CPM_END) if found.reading == "joined" else None
        self.newlines = found.reading != "words"
        self.opens_prompts = found.reading == "words"
        self.line_end = self._id(named.get("sep_token")) if found.reading == "words" else eod
        self.ends_texts = eod is None
        if eod is not None:
            self.start = self.end = eod

    def _id(self, name: str | None) -> int | None:
        i = None if name is None else self._tokenizer.token_to_id(name)
        return None if i is None else int(i)

    def _first(self, named: Mapping[str, str], purposes: tuple[str, ...], configured: int | None) -> int | None:
        """The id of the first of the named tokens that the vocabulary has, or the configured one if that is a special token."""
        for purpose in purposes:
            if (i := self._id(named.get(purpose))) is not None:
                return i
        if configured in self._specials.values():
            return configured
        return self._id(_END_OF_TEXT)

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``, those of transformers without added special tokens.

        Raises TokenizerError where the file cannot encode the text, such as a character it has no piece for, without an unknown one.
        """
        text = checked_text(text)
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # the library raises no other class
            raise TokenizerError(f"{self.path}: cannot encode the text ({one_line(error, 120)})") from None
        return ids

    def encode_with_specials(self, text: str) -> list[int]:
        """The same as :meth:`encode`."""
        return self.encode(text)

    def special(self, name: str) -> int:
        """The id of a piece by name: ``[SEP]``, ``<|endoftext|>``, … Raises TokenizerError if there is none."""
        if not isinstance(name, str):
            raise TokenizerError(f"the name of a piece must be text, not {shown(name)}")
        i = self._id(name)
        if i is None:
            raise TokenizerError(f"{self.path}: the vocabulary has no piece {name!r}")
        return i

    @property
    def specials(self) -> Mapping[str, int]:
        """The ids of the special tokens by name."""
        return self._specials

    def written(self, text: str) -> str | None:
        """``text`` as the vocabulary writes it (BERT's may be in lower case); None if it holds characters that have no piece."""
        ids = self.encode(text)
        return None if self.unk is not None and self.unk in ids else self.decode(ids)

    def decoder(self) -> TextDecoder:
        """A new incremental decoder."""
        if self._reading == "bytes":
            return ByteDecoder(self._piece, self._added)
        if self._reading == "words":
            return WordDecoder(self.surface, self._piece, self._prefix)
        return JoinedDecoder(self._joined, self._piece)

    def _joined(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    def _piece(self, i: int) -> str:
        if type(i) is not int:
            (i,) = token_ids([i], self.size - 1)
        piece = self._pieces.get(i)
        if piece is None:
            if 0 <= i < self.size:
                return ""  # a hole
            raise outside(i, self.size)
        return piece

    def surface(self, i: int) -> str:
        """What id ``i`` reads as by itself: of a byte-level piece that is no whole character, the replacement character."""
        text: str = self._surface(i, self._piece(i))
        return text

    @functools.cached_property
    def _surface(self) -> Any:
        @functools.cache
        def surface(i: int, piece: str) -> str:
            if self._reading == "bytes":
                return piece if i in self._added else piece_bytes(piece).decode("utf-8", "replace")
            if self._reading == "words":
                # [CLS], [SEP] and the like structure a text; [UNK] stands for a part of it
                hidden = i in self._specials.values() and i != self.unk
                return "" if hidden else piece.removeprefix(self._prefix)
            return self._joined([i])

        return surface
