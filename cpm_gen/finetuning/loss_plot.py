"""The course of the loss as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

_POINTS = 400  # at most, of the training loss


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of ``training.jsonl``, a half-written last one left out, the latest of each step."""
    found: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            found[entry["step"], "held_out" in entry] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return sorted(found.values(), key=lambda entry: entry["step"])


def save_loss_plot(log: list[dict[str, Any]], path: Path) -> None:
    """Draw the loss of the steps, averaged over neighbours, and the held-out loss."""
    trained = [(e["step"], e["loss"]) for e in log if e.get("loss") is not None]
    held = [(e["step"], e["held_out"]) for e in log if e.get("held_out") is not None]
    figure, axes = plt.subplots(figsize=(7, 4), dpi=120, layout="constrained")
    try:
        if trained:
            size = -(-len(trained) // _POINTS)
            groups = [trained[at : at + size] for at in range(0, len(trained), size)]
            axes.plot(
                [g[-1][0] for g in groups],
                [sum(v for _, v in g) / len(g) for g in groups],
                color="#999999",
                lw=1,
                label="training",
            )
        if held:
            axes.plot(*zip(*held, strict=True), "o-", color="#0072B2", lw=1.5, ms=3, label="held out")
        axes.set_xlabel("step")
        axes.set_ylabel("loss, nats per token")
        axes.grid(color="#dddddd", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if trained or held:
            axes.legend(frameon=False)
        figure.savefig(path)
    finally:
        plt.close(figure)
