"""Tables of measured figures, in Markdown that reads well in a terminal, too."""

from __future__ import annotations

from collections.abc import Sequence

from cpm_gen.cli.wide_text import pad, width
from cpm_gen.evaluation.confidence import Figure
from cpm_gen.translation import localized


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a table; the first row is the heading."""
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(pad, row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines) + "\n"


def number(value: float | None, form: str) -> str:
    """A number in a form of :func:`format`; None is a dash."""
    return "–" if value is None else format(value, form)


def with_interval(figure: Figure | None, form: str) -> str:
    """A figure with its interval, both in a form of :func:`format`: ``3.1 (2.9 to 3.3)``; None is a dash."""
    if figure is None:
        return "–"
    ends = figure.interval
    between = localized(f" ({number(ends[0], form)} to {number(ends[1], form)})") if ends else ""
    return number(figure.value, form) + between
