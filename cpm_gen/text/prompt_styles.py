"""How a prompt becomes tokens, and how tokens read, in each style.

novel: the text is stripped and cut at the string ``<eod>``; the pieces are stripped, encoded and joined.
lyric: the same cut; every piece that was not the empty string is encoded and followed by the id of ``<eod>``, the last one
    too; on output ``<eod>`` reads as a newline. Newlines within a piece end lines as well, and a blank line is a lone
    ``<eod>``. With ``lyric_lines="eod"``, the original's way, they are tokens of the line.
plain: the text as it is.

CRLF reads as LF. (Original: ``generate_novel.py``, ``generate_lyric.py``.)
"""

from __future__ import annotations

import typing

from cpm_gen.config.arguments import shown
from cpm_gen.config.options import LyricLines, StyleName
from cpm_gen.errors import InputError
from cpm_gen.text.tokenizer import Detokenizer, Tokenizer


def encode_prompt(
    style: StyleName,
    text: str,
    tokenizer: Tokenizer,
    lyric_lines: LyricLines = "newline",
    *,
    special_pieces: bool = False,
) -> list[int]:
    """Token ids of a prompt. Raises InputError for a text without tokens.

    special_pieces: names such as ``<sep>`` are their tokens; otherwise they are text.
    """
    if not isinstance(style, str) or style not in typing.get_args(StyleName):
        raise InputError(f"a style must be {' or '.join(typing.get_args(StyleName))}, not {shown(style)}")
    if not isinstance(text, str):
        raise InputError(f"a prompt must be text, not {type(text).__name__}")
    if not text.strip():
        raise InputError("the prompt is empty; give the words that the text should begin with")
    text = text.replace("\r\n", "\n")
    encode = tokenizer.encode_with_specials if special_pieces else tokenizer.encode
    if style == "plain":
        ids = encode(text)
    else:
        pieces = [p.strip() for p in text.strip().split("<eod>") if p != ""]
        if style == "lyric" and lyric_lines == "newline":
            pieces = [line.strip() for piece in pieces for line in piece.split("\n")]
        end = [tokenizer.eod] if style == "lyric" else []
        ids = [i for piece in pieces for i in (*encode(piece), *end)]
    if not ids:
        raise InputError("the prompt holds no token that the vocabulary knows; give some words")
    return ids


def detokenizer(style: StyleName, tokenizer: Tokenizer) -> Detokenizer:
    """An incremental detokenizer that reads ``<eod>`` as the style does."""
    return Detokenizer(tokenizer, eod_text="\n" if style == "lyric" else None)
