"""Bytes of a text that a user gives, as every door reads them: files, standard input, YAML, key files."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

from cpm_gen.errors import CpmGenError, InputError

MOST_BYTES = 1_000_000  # of a file with settings or keys
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # the byte order marks


def decode_text(content: bytes, where: str, error: type[CpmGenError] = InputError) -> str:
    """Decode strict UTF-8: without a leading byte order mark, with LF for other line ends.

    Raises ``error``, which names ``where`` and the encoding or the byte that is wrong.
    """
    if content.startswith(UTF_16) and len(content) > 2:
        raise error(f"{where}: UTF-16, which PowerShell's > and Notepad's \"Unicode\" write; save it as UTF-8")
    try:
        return unix_lines(content.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as wrong:
        raise error(f"{where}: not UTF-8 at byte {wrong.start}; save it as UTF-8") from None


def file_text(name: str, what: str = "FILE") -> str:
    """:func:`read_file` without its final newline, which editors and ``echo`` write and no text means; a second one is meant."""
    return read_file(name, what).removesuffix("\n")


def read_file(name: str, what: str) -> str:
    """A UTF-8 text file, or standard input for ``-``. what: the argument or flag, for errors. Raises InputError."""
    if not name:
        raise InputError(f"{what}: the file's name is empty")
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder; {what} takes a text file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    return decode_text(content, "standard input" if name == "-" else name)


def unix_lines(text: str) -> str:
    """``text`` with LF for CRLF, and for the lone CR of old Macs and of some terminals' pastes."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_bounded(
    path: Path,
    error: type[CpmGenError],
    most: int = MOST_BYTES,
    *,
    regular: bool = False,
    otherwise: str = "so not a file with settings or keys",
) -> bytes:
    """The content of a file of at most ``most`` bytes. A pipe or a device may have no end.

    regular: whether it must be a regular file. otherwise: what a file of more bytes means, for the message. Raises ``error``.
    """
    content = None
    try:
        if not regular or stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as file:
                content = file.read(most + 1)
    except (OSError, ValueError) as wrong:  # ValueError: a NUL in the path
        raise error(f"{path}: {getattr(wrong, 'strerror', None) or wrong}") from None
    if content is None:
        raise error(f"{path}: must be a regular file")
    if len(content) > most:
        raise error(f"{path}: more than {most:,} bytes, {otherwise}")
    return content
