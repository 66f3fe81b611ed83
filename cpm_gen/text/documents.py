"""The texts that a model is measured on, or trained on, or that a vocabulary is learned from.

A file whose name ends in ``.jsonl`` or ``.json`` holds JSON lines: an object a line, its ``text`` a document. Any other file is text: one
document, or one for each record if blank lines separate records. A folder stands for the ``.txt``, ``.jsonl`` and ``.json`` files in it
and below it, in the order of their paths.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cpm_gen.config.arguments import path_argument
from cpm_gen.config.json_lines import json_lines
from cpm_gen.config.text_files import decode_text
from cpm_gen.errors import InputError

_JSON_LINES = (".jsonl", ".json")
_IN_FOLDERS = (".txt", *_JSON_LINES)
_BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


@dataclass(frozen=True)
class Document:
    """name: the file, and where in it. text: may be blank."""

    name: str
    text: str


def read_documents(path: str | os.PathLike[str], *, records: bool = False) -> list[Document]:
    """The documents of a file or a folder; records: blank lines separate documents in files of text.

    Raises InputError for a path without documents, a file that is not UTF-8 or empty, and lines that are not such objects.
    """
    found = path_argument(path, "the data's path")
    if not found.is_dir():
        return list(_documents(found, found.name, records))
    files = sorted(p for p in found.rglob("*") if p.suffix in _IN_FOLDERS and p.is_file())
    if not files:
        raise InputError(f"{found}: a folder without {', '.join(_IN_FOLDERS[:-1])} or {_IN_FOLDERS[-1]} files")
    return [d for file in files for d in _documents(file, str(file.relative_to(found)), records)]


def file_bytes(path: Path) -> bytes:
    """The content of a file; raises InputError for one that cannot be read or is blank."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    if not content.removeprefix(b"\xef\xbb\xbf").strip():
        raise InputError(f"{path}: is empty; it should hold text")
    return content


def _documents(path: Path, name: str, records: bool) -> Iterator[Document]:
    content = file_bytes(path)
    if path.suffix in _JSON_LINES:
        for number, fields in json_lines(io.BytesIO(content), str(path)):
            text = fields.get("text")
            if not isinstance(text, str):
                raise InputError(f'{path}, line {number}: needs "text", a string')
            yield Document(f"{name}, line {number}", text)
        return
    text = decode_text(content, str(path)).removesuffix("\n")
    if not records:
        yield Document(name, text)
        return
    for number, record in enumerate(filter(None, _BLANK_LINES.split(text.strip("\n"))), start=1):
        yield Document(f"{name}, record {number}", record)
