"""What ``cpm-gen tokenize --about`` and ``cpm-gen inspect`` say of a tokenizer."""

from __future__ import annotations

from typing import Any

from cpm_gen.text.tokenizer import TextTokenizer


def describe_tokenizer(tokenizer: TextTokenizer, vocabulary: int | None = None) -> dict[str, Any]:
    """Kind, file, number of ids, and the tokens that begin and end a text and a line, by name (None: there is none).

    vocabulary: rows of the network; ``without_piece`` counts those that are never written.
    """
    rows = tokenizer.size if vocabulary is None else vocabulary
    return {
        "kind": tokenizer.kind,
        "path": str(tokenizer.path),
        "size": tokenizer.size,
        "without_piece": len(tokenizer.without_text(rows)),
        "start": tokenizer.name(tokenizer.start),
        "end": tokenizer.name(tokenizer.end),
        "line_end": "\n" if tokenizer.line_end is None else tokenizer.name(tokenizer.line_end),
        "ends_texts": tokenizer.ends_texts,
    }


def to_text(description: dict[str, Any]) -> str:
    """A description in one line."""
    d = description
    missing = f", {d['without_piece']:,} rows without a piece, never written" if d["without_piece"] else ""
    start = f"begins with {d['start']}" if d["start"] is not None else "begins with no token"
    end = f"ends with {d['end']}" if d["end"] is not None else "ends with none"
    line = "a newline" if d["line_end"] == "\n" else d["line_end"]
    return f"{d['kind']}, {d['size']:,} ids{missing}; a text {start}, {end}; a line ends with {line} ({d['path']})"
