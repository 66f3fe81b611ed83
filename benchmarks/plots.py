"""Plot the results of the other benchmarks. Needs matplotlib.

    python benchmarks/plots.py --times window-times.json --decode decode.json --batch batch.json --out docs/plots [--format svg]

- ``--times`` (``window.py --times``, ``--model`` for one of its models): speed against position over all slides, beside a text that stays
  inside its window, and a histogram of the inter-token latency
- ``--decode`` (``decode.py --json``): throughput against batch size, cpm-gen and the peers, a panel per model and precision
- ``--batch`` (``batch.py --json``): the same for cpm-gen alone
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from cpm_gen.evaluation.plot import STYLE

# one colour per engine in all plots (Okabe and Ito's palette for colour-blind readers); cpm-gen is black
COLOURS = {
    "ours": "#000000",
    "hf-eager": "#999999",
    "hf-sdpa": "#56B4E9",
    "llama.cpp": "#D55E00",
    "ctranslate2": "#CC79A7",
    "openvino": "#0072B2",
    "onnxruntime": "#009E73",
}
SLOTS = {2: ("encoded ahead (two slots)", "#0072B2"), 1: ("encoded at once (one slot)", "#D55E00")}
INSIDE = ("no slides: a text inside its window, by turns", "#999999")


def panels(titles: list[str], across: int = 2, height: float = 3.2) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each title."""
    across = min(across, len(titles))
    down = -(-len(titles) // across)
    figure, grid = plt.subplots(
        down, across, figsize=(5.2 * across, height * down), squeeze=False, layout="constrained"
    )
    flat = list(grid.flat)
    for axes, title in zip(flat, titles, strict=False):
        axes.set_title(title, loc="left", fontsize=10)
    for axes in flat[len(titles) :]:
        axes.set_axis_off()
    return figure, flat[: len(titles)]


def share_legend(figure: Figure, all_axes: list[Axes]) -> None:
    """One legend below for all panels."""
    found = {label: line for axes in all_axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=len(found), fontsize=9)


def runs_of(times: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs of ``window.py``, grouped by model, precision and hop."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for run in times:
        share = round(run["limit"] / run["hop"])
        grouped.setdefault(f"{run['model']}, {run['dtype']}, hop 1/{share} of the window", []).append(run)
    return grouped


def speed(times: list[dict[str, Any]]) -> Figure:
    """Tokens per second against position, averaged over short stretches, with a line at each slide."""
    grouped = runs_of(times)
    figure, all_axes = panels(list(grouped))
    for axes, runs in zip(all_axes, grouped.values(), strict=True):
        lines = [(*SLOTS[run["slots"]], run["microseconds"]["past"]) for run in runs]
        lines.insert(0, (*INSIDE, max(runs, key=lambda run: run["slots"])["microseconds"]["inside"]))
        limit, hop = runs[0]["limit"], runs[0]["hop"]
        for label, colour, steps in lines:
            stretch = max(1, len(steps) // 150)
            at = range(0, len(steps) - stretch + 1, stretch)
            rates = [1e6 * stretch / sum(steps[i : i + stretch]) for i in at]
            axes.plot([limit + i + stretch / 2 for i in at], rates, color=colour, linewidth=1.1, label=label)
        for n, position in enumerate(range(limit + 1, limit + len(lines[0][2]), hop)):
            axes.axvline(
                position, color="#888888", linestyle=":", linewidth=0.8, label=None if n else "the window moves"
            )
        axes.set_ylim(bottom=0)
        axes.set_xlabel("position in the text (tokens)")
        axes.set_ylabel("tokens per second")
    share_legend(figure, all_axes)
    return figure


def histogram(times: list[dict[str, Any]]) -> Figure:
    """Histogram of the inter-token latency past the window; both axes logarithmic, so that single pauses are visible."""
    grouped = runs_of(times)
    figure, all_axes = panels(list(grouped))
    for axes, runs in zip(all_axes, grouped.values(), strict=True):
        past = {run["slots"]: [t / 1e3 for t in run["microseconds"]["past"]] for run in runs}
        low, high = min(map(min, past.values())), max(map(max, past.values()))
        edges = [low * 0.98 * (high * 1.04 / low) ** (i / 60) for i in range(61)]
        for slots, gaps in past.items():
            label, colour = SLOTS[slots]
            label += f": median {statistics.median(gaps):.1f}, longest {max(gaps):.0f} ms"
            axes.hist(gaps, bins=edges, histtype="stepfilled", color=colour, alpha=0.45, label=label)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(0.7, axes.get_ylim()[1] * 12)  # room for the legend
        axes.xaxis.set_major_locator(FixedLocator([n * 10**e for e in range(-1, 5) for n in (1, 2, 5)]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlim(edges[0], edges[-1])
        axes.set_xlabel("time between two tokens (ms)")
        axes.set_ylabel("tokens")
        axes.legend(loc="upper left", fontsize=8)
    return figure


def throughput(rows: list[dict[str, Any]]) -> Figure:
    """Tokens per second against batch size; the median if an engine was measured beside several others."""
    decodes = [row for row in rows if row["work"] == "decode"]
    grouped: dict[str, dict[str, dict[int, list[float]]]] = {}
    for row in decodes:
        engines = grouped.setdefault(f"{row['model']}, {row['dtype']}", {})
        engines.setdefault(row["engine"], {}).setdefault(row["batch"], []).append(row["tokens_per_second"])
    figure, all_axes = panels(list(grouped), across=3 if len(grouped) > 2 else 2, height=3.6)
    for axes, engines in zip(all_axes, grouped.values(), strict=True):
        for engine, by_batch in engines.items():
            batches = sorted(by_batch)
            rates = [statistics.median(by_batch[b]) for b in batches]
            width, order = (2.2, 3) if engine == "ours" else (1.3, 2)
            axes.plot(batches, rates, "o-", color=COLOURS[engine], lw=width, ms=4, zorder=order, label=engine)
        ticks = sorted({b for by_batch in engines.values() for b in by_batch})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(ScalarFormatter())
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(
            FixedLocator([n * 10**e for e in range(6) for n in (1, 2, 5) if low <= n * 10**e <= high])
        )
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.set_xlabel("texts at once")
        axes.set_ylabel("tokens per second, all texts")
    share_legend(figure, all_axes)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=Path, metavar="FILE")
    parser.add_argument("--model", help="of --times: only this one")
    parser.add_argument("--decode", type=Path, metavar="FILE")
    parser.add_argument("--batch", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--format", choices=["svg", "png"], default="svg")
    args = parser.parse_args()
    plt.rcParams.update(STYLE)
    figures: dict[str, Figure] = {}
    if args.times:
        times = [run for run in json.loads(args.times.read_text()) if args.model in (None, run["model"])]
        figures |= {"speed": speed(times), "itl": histogram(times)}
    for name in ("decode", "batch"):
        if file := getattr(args, name):
            figures[f"throughput-{name}"] = throughput(json.loads(file.read_text()))
    args.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        file = args.out / f"{name}.{args.format}"
        figure.savefig(file, metadata={"Date": None} if args.format == "svg" else None)
        print(file)


if __name__ == "__main__":
    main()
