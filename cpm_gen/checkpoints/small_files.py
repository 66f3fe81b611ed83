"""Small text files beside a checkpoint, as people and Windows write them."""

from __future__ import annotations

from pathlib import Path

from cpm_gen.config.text_files import UTF_16, read_bounded
from cpm_gen.errors import CheckpointError


def read_small_text(path: Path, most: int, purpose: str) -> str:
    """The text of a UTF-8 file of at most ``most`` bytes, without a byte-order mark.

    purpose: what the file must hold, for messages. Raises CheckpointError if it is no regular file, too long or no UTF-8.
    """
    content = read_bounded(path, CheckpointError, most, regular=True, otherwise=f"but {purpose}")
    if content.startswith(UTF_16) or (len(content) > 1 and 0 in content[:2]):
        raise CheckpointError(f"{path}: {purpose}, but is UTF-16 text; save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: {purpose}, but is not UTF-8 text; save it as UTF-8") from None
