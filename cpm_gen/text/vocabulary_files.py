"""Read the files of a vocabulary: bounded, as strict UTF-8, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cpm_gen.checkpoints.formats.foreign_files import recognize
from cpm_gen.config.text_files import UTF_16, read_bounded
from cpm_gen.errors import TokenizerError

_MOST_BYTES = 2**26  # of a vocabulary; gpt2's tokenizer.json has 1.3 MB, those of 250,000 pieces 17 MB
_MOST_SETTINGS = 2**23  # of a file of settings


def read_vocabulary(path: Path, most: int = _MOST_BYTES) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes; raises TokenizerError that names it."""
    return read_bounded(path, TokenizerError, most, regular=True, otherwise="too many for a vocabulary")


def foreign(content: bytes, wanted: str = "the vocabulary") -> str | None:
    """A sentence about what a file holds instead of what is ``wanted``; None if it is not known."""
    return recognize(content[:512], len(content), wanted)


def read_text(path: Path, most: int, wanted: str, why_not_utf8: str) -> str:
    """The text of a UTF-8 file of at most ``most`` bytes, without a byte order mark; raises TokenizerError that names it.

    wanted: what the file must hold. why_not_utf8: for the message about a file that is not UTF-8.
    """
    content = read_vocabulary(path, most)
    # a vocabulary may begin with [PAD], which looks like JSON
    if not content.lstrip().startswith((b"{", b"[")) and (found := foreign(content, wanted)):
        raise TokenizerError(f"{path}: {found}")
    if content.startswith(UTF_16):
        raise TokenizerError(f"{path}: UTF-16; save it as UTF-8, or download it again")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not UTF-8 at byte {error.start}; {why_not_utf8}") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a vocabulary in UTF-8 that ends its lines with LF; raises TokenizerError that names the file."""
    gbk = "a GBK vocabulary must be saved as UTF-8, or downloaded again"
    text = read_text(path, _MOST_BYTES, "the vocabulary", gbk)
    if "\r\n" in text:
        raise TokenizerError(
            f"{path}: lines end with CR LF, so every piece would end with CR; save it with LF (dos2unix), or "
            "download it without conversion (git config core.autocrlf false)"
        )
    lines = text.split("\n")  # not splitlines: U+0085 and U+2028 are pieces
    return lines[:-1] if lines[-1] == "" else lines


def read_object(path: Path, most: int = _MOST_SETTINGS) -> dict[str, Any]:
    """The JSON object in a file; raises TokenizerError that names the file."""
    return read_object_and_text(path, most)[0]


def read_object_and_text(path: Path, most: int = _MOST_BYTES) -> tuple[dict[str, Any], str]:
    """The JSON object in a file, and its text; raises TokenizerError that names the file."""
    text = read_text(path, most, "JSON", "is the file cut off? download it again")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: not JSON ({error}); is the file cut off? download it again") from None
    if not isinstance(found, dict):
        raise TokenizerError(f"{path}: must be a JSON object")
    return found, text


def read_pieces(path: Path) -> dict[str, int]:
    """The object of pieces and ids in a ``vocab.json``; raises TokenizerError that names the file."""
    found = read_object(path, _MOST_BYTES)
    for piece, i in found.items():
        if type(i) is not int or not 0 <= i < 2 * len(found) + 1024:
            raise TokenizerError(f"{path}: the id of {piece!r} must be a whole number below the vocabulary's size")
    if not found:
        raise TokenizerError(f"{path}: holds no piece")
    return found
