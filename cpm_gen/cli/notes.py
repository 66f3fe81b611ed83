"""Remarks on standard error."""

from __future__ import annotations

import sys

from cpm_gen.translation import localized


def show_note(text: str) -> None:
    """Print a remark as one line, in the language of the locale."""
    sys.stderr.write(localized(f"note: {text}") + "\n")
