"""JSON lines: an object a line, as files and pipes hold them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from cpm_gen.config.text_files import decode_text
from cpm_gen.errors import InputError


def json_lines(lines: Iterable[bytes], where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of each line that is not blank; raises InputError that names ``where`` and the line."""
    for number, raw in enumerate(lines, start=1):
        content = json_object(raw, f"{where}, line {number}")
        if content is not None:
            yield number, content


def json_object(raw: bytes, place: str) -> dict[str, Any] | None:
    """The object of a line, None for a blank one. Raises InputError that names ``place``."""
    line = decode_text(raw, place)
    if not line.strip():
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{place}: must be a JSON object")
    return content
