"""Bytes of a text that a user gives, as every door reads them: files, standard input, YAML, key files."""

from __future__ import annotations

from cpm_gen.errors import CpmGenError, InputError

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # the byte order marks


def decode_text(content: bytes, where: str, error: type[CpmGenError] = InputError) -> str:
    """Decode strict UTF-8: without a leading byte order mark, with LF for CRLF.

    Raises ``error``, which names ``where`` and the encoding or the byte that is wrong.
    """
    if content.startswith(_UTF_16) and len(content) > 2:
        raise error(f"{where}: UTF-16, which PowerShell's > and Notepad's \"Unicode\" write; save it as UTF-8")
    try:
        return content.decode("utf-8").removeprefix("\ufeff").replace("\r\n", "\n")
    except UnicodeDecodeError as wrong:
        raise error(f"{where}: not UTF-8 at byte {wrong.start}; save it as UTF-8") from None
