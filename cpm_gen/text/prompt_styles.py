"""How a prompt becomes tokens, and how tokens read, in each style.

novel: the text is stripped and cut at the string ``<eod>``; the pieces are stripped, encoded and joined.
lyric: the same cut; every piece that was not the empty string is encoded and followed by the id of ``<eod>``, the last one
    too; on output ``<eod>`` reads as a newline.
plain: the text as it is.

CRLF reads as LF. (Original: ``generate_novel.py``, ``generate_lyric.py``.)
"""

from __future__ import annotations

from cpm_gen.config.options import StyleName
from cpm_gen.errors import InputError
from cpm_gen.text.tokenizer import Detokenizer, Tokenizer


def encode_prompt(style: StyleName, text: str, tokenizer: Tokenizer) -> list[int]:
    """Token ids of a prompt. Raises InputError for a text without tokens."""
    if not isinstance(text, str):
        raise InputError(f"a prompt must be text, not {type(text).__name__}")
    if not text.strip():
        raise InputError("the prompt is empty; give the words that the text should begin with")
    text = text.replace("\r\n", "\n")
    if style == "plain":
        ids = tokenizer.encode(text)
    else:
        pieces = [p for p in text.strip().split("<eod>") if p != ""]
        end = [tokenizer.eod] if style == "lyric" else []
        ids = [i for piece in pieces for i in (*tokenizer.encode(piece.strip()), *end)]
    if not ids:
        raise InputError("the prompt holds no token that the vocabulary knows; give some words")
    return ids


def detokenizer(style: StyleName, tokenizer: Tokenizer) -> Detokenizer:
    """An incremental detokenizer that reads ``<eod>`` as the style does."""
    return Detokenizer(tokenizer, eod_text="\n" if style == "lyric" else None)
