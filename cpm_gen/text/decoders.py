"""Incremental decoders of the tokenizers that come through ``tokenizers``: bytes, words, and whatever a ``tokenizer.json`` says.

``tokenizers``' own ``DecodeStream`` loses the bytes of a character that the text ends in, so it is not used.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Sequence

_REPLACEMENT = "\ufffd"  # an incomplete or wrong byte
_MOST_HELD = 16  # tokens that may be held back; no character has more bytes than 4


def _byte_characters() -> dict[str, int]:
    """The bytes by the characters that stand for them in a byte-level vocabulary (OpenAI's ``bytes_to_unicode``)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(256 + n): b for n, b in enumerate(hidden)}


_BYTES = _byte_characters()


def piece_bytes(piece: str) -> bytes:
    """The bytes of a piece of a byte-level vocabulary. A piece with other characters, such as an added one, is its own text."""
    try:
        return bytes(_BYTES[c] for c in piece)
    except KeyError:
        return piece.encode("utf-8", "replace")


class ByteDecoder:
    """Pieces of bytes. A special token is text of its own: bytes that are held back come out before it."""

    def __init__(self, pieces: Callable[[int], str], specials: Collection[int]) -> None:
        """``pieces``: the name of an id in the vocabulary."""
        self._pieces = pieces
        self._specials = specials
        self._utf_8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, i: int) -> str:
        piece = self._pieces(i)
        return self.flush() + piece if i in self._specials else self._utf_8.decode(piece_bytes(piece))

    def flush(self) -> str:
        return self._utf_8.decode(b"", final=True)


class WordDecoder:
    """Pieces of words, as BERT has them: ``##`` continues a word.

    Chinese is written without spaces; two words that consist of letters or digits keep the one between them.
    """

    def __init__(self, surface: Callable[[int], str], pieces: Callable[[int], str], prefix: str = "##") -> None:
        """``surface``: what an id reads as by itself; ``pieces``: its name in the vocabulary."""
        self._surface = surface
        self._pieces = pieces
        self._prefix = prefix
        self._before = ""  # the last character

    def push(self, i: int) -> str:
        text = self._surface(i)
        if not text:
            return ""
        continues = self._pieces(i).startswith(self._prefix)
        apart = not continues and _in_word(self._before) and _in_word(text[0])
        self._before = text[-1]
        return f" {text}" if apart else text

    def flush(self) -> str:
        self._before = ""
        return ""


def _in_word(character: str) -> bool:
    """Whether a character belongs to a word that spaces part from others. BERT cuts at each Chinese character, so these do not."""
    if not character.isalnum():
        return False
    code = ord(character)
    return not (
        0x4E00 <= code <= 0x9FFF or 0x3400 <= code <= 0x4DBF or 0x20000 <= code <= 0x2FA1F or 0xF900 <= code <= 0xFAFF
    )


class JoinedDecoder:
    """Tokens of any ``tokenizer.json``, whose decoder takes whole lists: decodes the last few, and takes what they add."""

    def __init__(self, decode: Callable[[Sequence[int]], str], pieces: Callable[[int], str]) -> None:
        """``pieces``: the name of an id in the vocabulary; raises for an id outside it."""
        self._decode = decode
        self._pieces = pieces
        self._ids: list[int] = []
        self._shown = 0  # how many of them are shown

    def push(self, i: int) -> str:
        self._pieces(i)
        self._ids.append(i)
        return self._take(final=len(self._ids) - self._shown > _MOST_HELD)

    def flush(self) -> str:
        text = self._take(final=True) if self._shown < len(self._ids) else ""
        self._ids, self._shown = [], 0
        return text

    def _take(self, final: bool) -> str:
        before, after = self._decode(self._ids[: self._shown]), self._decode(self._ids)
        if after.endswith(_REPLACEMENT) and not final:  # inside a character
            return ""
        del self._ids[: self._shown]
        self._shown = len(self._ids)
        return after[len(before) :]
