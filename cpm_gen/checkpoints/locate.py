"""Where a model and its tokenizer lie."""

from __future__ import annotations

from pathlib import Path

EMBEDDED = Path(__file__).parents[1] / "embedded"


def model_folder(model: str | None) -> Path:
    """The folder that ``--model`` names."""
    return EMBEDDED if model in (None, "embedded") else Path(str(model))
