"""Read the files of a vocabulary: bounded, as strict UTF-8, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cpm_gen.config.text_files import read_bounded
from cpm_gen.errors import TokenizerError

_MOST_BYTES = 2**26  # of a vocabulary; gpt2's tokenizer.json has 1.3 MB, those of 250,000 pieces 17 MB
_MOST_SETTINGS = 2**23  # of a file of settings
_LFS = b"version https://git-lfs"


def read_vocabulary(path: Path, most: int = _MOST_BYTES) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes; raises TokenizerError that names it."""
    return read_bounded(path, TokenizerError, most, regular=True, otherwise="too many for a vocabulary")


def _not_a_pointer(content: bytes, path: Path) -> None:
    if content.startswith(_LFS):
        raise TokenizerError(f"{path}: a Git LFS pointer, not the file itself; run git lfs pull in its folder")


def read_lines(path: Path) -> list[str]:
    """The lines of a vocabulary in UTF-8 that ends its lines with LF; raises TokenizerError that names the file."""
    content = read_vocabulary(path)
    _not_a_pointer(content, path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{path}: not UTF-8 at byte {error.start}; a GBK vocabulary must be saved as UTF-8, or downloaded again"
        ) from None
    if "\r\n" in text:
        raise TokenizerError(
            f"{path}: lines end with CR LF, so every piece would end with CR; save it with LF (dos2unix), or "
            "download it without conversion (git config core.autocrlf false)"
        )
    lines = text.split("\n")  # not splitlines: U+0085 and U+2028 are pieces
    return lines[:-1] if lines[-1] == "" else lines


def read_object(path: Path, most: int = _MOST_SETTINGS) -> dict[str, Any]:
    """The JSON object in a file; raises TokenizerError that names the file."""
    content = read_vocabulary(path, most)
    _not_a_pointer(content, path)
    try:
        found = json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TokenizerError(
            f"{path}: not UTF-8 at byte {error.start}; is the file cut off? download it again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: not JSON ({error}); is the file cut off? download it again") from None
    if not isinstance(found, dict):
        raise TokenizerError(f"{path}: must be a JSON object")
    return found


def read_pieces(path: Path) -> dict[str, int]:
    """The object of pieces and ids in a ``vocab.json``; raises TokenizerError that names the file."""
    found = read_object(path, _MOST_BYTES)
    for piece, i in found.items():
        if type(i) is not int or not 0 <= i < 2 * len(found) + 1024:
            raise TokenizerError(f"{path}: the id of {piece!r} must be a whole number below the vocabulary's size")
    if not found:
        raise TokenizerError(f"{path}: holds no piece")
    return found
