"""How a prompt becomes tokens, and how tokens read, in each style.

novel: the text is stripped and cut at the string ``<eod>``; the pieces are stripped, encoded and joined.
lyric: the same cut; every piece that was not the empty string is encoded and followed by the token that ends a line, the last one
    too; on output that token reads as a newline. Newlines within a piece end lines as well, and a blank line is a lone
    ``<eod>``. With ``lyric_lines="eod"``, the original's way, they are tokens of the line.
plain: the text as it is.

The token that ends a line is ``<eod>`` for CPM's vocabularies (original: ``generate_novel.py``, ``generate_lyric.py``) and ``[SEP]``
for BERT's, which have no newline: there it stands between the lines of a novel, too, reads as a newline in both styles, and is left
out after the last line if it would end the text. Byte-level vocabularies have newlines, so their lines end with them.

BERT's ``[CLS]``, or the token set by ``start_token``, begins a prompt in the styles lyric and novel. CRLF and CR read as LF.
"""

from __future__ import annotations

import typing
from collections.abc import Callable

from cpm_gen.config.arguments import shown
from cpm_gen.config.options import LyricLines, StyleName
from cpm_gen.config.text_files import unix_lines
from cpm_gen.errors import InputError
from cpm_gen.text.tokenizer import Detokenizer, TextTokenizer


def encode_prompt(
    style: StyleName,
    text: str,
    tokenizer: TextTokenizer,
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
    text = unix_lines(text)
    encode = tokenizer.encode_with_specials if special_pieces else tokenizer.encode
    if style == "plain":
        ids = encode(text)
    else:
        pieces = [p.strip() for p in text.strip().split("<eod>") if p != ""]
        if not tokenizer.newlines or (style == "lyric" and lyric_lines == "newline"):
            pieces = [line.strip() for piece in pieces for line in piece.split("\n")]
        ids = _lines(style, pieces, tokenizer, encode)
        if ids and tokenizer.opens_prompts and tokenizer.start is not None and ids[0] != tokenizer.start:
            ids = [tokenizer.start, *ids]
    if not ids:
        raise InputError("the prompt holds no token that the vocabulary knows; give some words")
    return ids


def _lines(
    style: StyleName, pieces: list[str], tokenizer: TextTokenizer, encode: Callable[[str], list[int]]
) -> list[int]:
    """The tokens of a prompt's lines."""
    end = tokenizer.line_end
    if end is None:  # a newline is text
        return encode("".join(f"{piece}\n" for piece in pieces) if style == "lyric" else "\n".join(pieces))
    if tokenizer.newlines:
        ends = [end] if style == "lyric" else []
        return [i for piece in pieces for i in (*encode(piece), *ends)]
    ids = [i for piece in pieces for i in (*encode(piece), end)]
    closes = tokenizer.ends_texts and end == tokenizer.end
    return ids[:-1] if style == "novel" or closes else ids


def line_end(style: StyleName, tokenizer: TextTokenizer) -> list[int]:
    """Token ids that end a line in a style."""
    end = tokenizer.line_end
    return tokenizer.encode("\n") if end is None or (tokenizer.newlines and style != "lyric") else [end]


def start_ids(tokenizer: TextTokenizer) -> list[int]:
    """Token ids of a text that begins from nothing. Raises InputError where no token begins a text."""
    if tokenizer.start is None:
        raise InputError(
            f"{tokenizer.path}: this vocabulary names no token that begins a text; give --start-token TOKEN, or a prompt"
        )
    return [tokenizer.start]


def detokenizer(style: StyleName, tokenizer: TextTokenizer, *, chapters: bool = False) -> Detokenizer:
    """An incremental detokenizer that reads the token that ends a line as the style does.

    chapters: in all styles, as where it stands between chapters.
    """
    ends_lines = not (tokenizer.newlines and tokenizer.line_end is not None)
    reads_lines = chapters or style == "lyric" or (style == "novel" and ends_lines)
    return Detokenizer(tokenizer, eod_text="\n" if reads_lines else None)
