"""Token ids of the text around a passage: what the network sees on both sides of what is written there."""

from __future__ import annotations

from cpm_gen.config.options import StyleName
from cpm_gen.config.text_files import unix_lines
from cpm_gen.runtime.text_engine import TextEngine

CHARS_A_TOKEN = 8  # more than a token has on average: bounds how much of a long text is encoded


def encode_part(engine: TextEngine, text: str, style: StyleName) -> list[int]:
    """Token ids of a part of a text, with its line breaks as the style has them and nothing added at its ends."""
    tokenizer, options = engine.vocabulary.tokenizer, engine.options
    encode = tokenizer.encode_with_specials if options.special_pieces else tokenizer.encode
    text = unix_lines(text)
    by_lines = not tokenizer.newlines or (style == "lyric" and options.lyric_lines == "newline")
    if tokenizer.line_end is None or not by_lines:
        return encode(text) if text else []
    ids: list[int] = []
    for at, line in enumerate(text.split("\n")):
        ids += ([tokenizer.line_end] if at else []) + (encode(line) if line else [])
    return ids


def encode_after(engine: TextEngine, before: str, text: str, style: StyleName) -> list[int]:
    """Token ids of ``text`` as it stands after ``before``: without a piece that marks the beginning of a text."""
    if not text:
        return []
    head = encode_part(engine, before[-1:], style)
    both = encode_part(engine, before[-1:] + text, style)
    return both[len(head) :] if both[: len(head)] == head else encode_part(engine, text, style)


def encode_left(engine: TextEngine, text: str, style: StyleName, room: int) -> list[int]:
    """The last ``room`` token ids of the text to the left, after those that the window keeps; a token that begins a text if empty."""
    vocabulary = engine.vocabulary
    tokenizer = vocabulary.tokenizer
    most = CHARS_A_TOKEN * room
    opens = tokenizer.opens_prompts and style != "plain" and tokenizer.start is not None
    keep = min(engine.window.keep, room // 2)
    if len(text) > 2 * most:
        first = encode_part(engine, text[: CHARS_A_TOKEN * keep], style) if keep else []
        ids = [*first[:keep], *encode_part(engine, text[-most:], style)]
    else:
        ids = encode_part(engine, text, style)
    if opens:
        ids = [*vocabulary.start_ids(), *ids]
        keep = max(keep, 1)
    if len(ids) > room:
        ids = [*ids[:keep], *ids[len(ids) - room + keep :]]
    return ids or vocabulary.start_ids()
