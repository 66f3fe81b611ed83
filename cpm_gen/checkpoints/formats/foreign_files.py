"""What a file is that people take for weights or a vocabulary: recognized by its first bytes, with what to do about it."""

from __future__ import annotations

_ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
    b"\x28\xb5\x2f\xfd": "Zstandard",
}


def recognize(start: bytes, size: int, wanted: str = "the weights") -> str | None:
    """A sentence about a file that begins with ``start`` and has ``size`` bytes; None if it can be a torch.save file.

    wanted: what the file must hold.
    """
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not size:
        return "the file is empty: damaged or truncated; copy or download it again"
    if text.startswith(b"version https://git-lfs"):
        return f"{size} bytes: a Git LFS pointer, not {wanted}; install git-lfs and run `git lfs pull` in that folder"
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        return f"{size:,} bytes: a web page (HTML), not {wanted}; the download link led to a page: download the file itself"
    if text.startswith((b"{", b"[")):
        return f"{size:,} bytes of JSON, not {wanted}; it may be a server's error message: download the file again"
    for sign, name in _ARCHIVES.items():
        if start.startswith(sign):
            return f"packed with {name}; unpack it first"
    if not start.strip(b"\0"):
        return f"begins with {len(start)} zero bytes: damaged or truncated, perhaps an unfinished download; download it again"
    return None
