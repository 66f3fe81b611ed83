"""The plot of ``cpm-gen eval-window``. Needs matplotlib, which the extra ``plot`` brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from cpm_gen.errors import InputError
from cpm_gen.evaluation.window_report import WindowReport

# Okabe and Ito's palette for colour-blind readers; the stale cache and human text have colours of their own
_COLOURS = ("#000000", "#56B4E9", "#009E73", "#0072B2", "#E69F00", "#CC79A7", "#F0E442")
_FIXED = {"stale cache": "#D55E00", "human": "#999999"}
STYLE: Any = {  # benchmarks/plots.py draws in it, too
    "figure.dpi": 120,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.hashsalt": "cpm-gen",
}


def check_format(path: Path) -> None:
    """Check that matplotlib writes files with this ending; raises InputError."""
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.removeprefix(".") not in known:
        raise InputError(f"{path}: a plot's name ends in one of {', '.join(f'.{name}' for name in known)}")


def save_plot(report: WindowReport, path: Path) -> None:
    """Draw perplexity by position and, if texts were written, their repetitions and low variety.

    The file's ending says its format (see :func:`check_format`). Raises InputError for a file that cannot be written.
    """
    panels = [("perplexity, given text", {m.name: m.by_position for m in report.methods}, True)]
    for title, name in (("repeated 4-grams, written text", "repeated_4"), ("low variety, written text", "low_variety")):
        if report.generated:
            lines = {n: {k: getattr(v, name) for k, v in columns.items()} for n, columns in report.generated}
            panels.append((title, lines, False))
    colours = dict(_FIXED)
    for _, lines, _ in panels:
        for name in lines:
            colours.setdefault(name, _COLOURS[(len(colours) - len(_FIXED)) % len(_COLOURS)])
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            1, len(panels), figsize=(5.2 * len(panels), 3.8), squeeze=False, layout="constrained"
        )
        for axes, (title, lines, logarithmic) in zip(grid.flat, panels, strict=True):
            _panel(axes, title, lines, colours, logarithmic=logarithmic)
        handles = {
            label: line for axes in grid.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9)
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
        finally:
            plt.close(figure)


def _panel(axes: Axes, title: str, lines: dict[str, Any], colours: dict[str, str], *, logarithmic: bool) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    for name, by_position in lines.items():
        found = [(column, value) for column, value in by_position.items() if value is not None]
        if found:
            axes.plot([c for c, _ in found], [v for _, v in found], "o-", color=colours[name], lw=1.3, ms=3, label=name)
    axes.set_xlabel("position (tokens)")
    axes.tick_params(axis="x", labelrotation=45)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
