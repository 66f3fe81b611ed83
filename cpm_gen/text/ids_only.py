"""What stands in for the tokenizer of a model without a vocabulary: its ids can be written, continued and scored, but have no text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from cpm_gen.errors import TokenizerError
from cpm_gen.text.tokenizer import TextDecoder, TextTokenizer, outside


class IdsOnly(TextTokenizer):
    """No vocabulary. What needs one raises ``reason``; ids read as no text."""

    kind = "none"
    start = end = line_end = unk = None
    ends_texts = opens_prompts = False
    newlines = True

    def __init__(self, folder: Path, vocabulary: int, reason: TokenizerError) -> None:
        self.path = folder
        self.size = vocabulary
        self._reason = reason

    def _refuse(self) -> NoReturn:
        raise TokenizerError(str(self._reason))

    def encode(self, text: str) -> list[int]:
        """Raise TokenizerError."""
        self._refuse()

    def encode_with_specials(self, text: str) -> list[int]:
        """Raise TokenizerError."""
        self._refuse()

    def special(self, name: str) -> int:
        """Raise TokenizerError."""
        self._refuse()

    def written(self, text: str) -> str | None:
        """Raise TokenizerError."""
        self._refuse()

    @property
    def specials(self) -> Mapping[str, int]:
        """None are known."""
        return {}

    def boundary_ids(self, boundary: str) -> frozenset[int] | None:
        """None for any token; raises TokenizerError for other boundaries."""
        return None if boundary == "token" else self._refuse()

    def surface(self, i: int) -> str:
        """No text."""
        if not 0 <= i < self.size:
            raise outside(i, self.size)
        return ""

    def decoder(self) -> TextDecoder:
        """A decoder to no text."""
        return _Nothing()


class _Nothing:
    def push(self, i: int) -> str:
        return ""

    def flush(self) -> str:
        return ""
