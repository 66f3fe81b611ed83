"""Rewrites of held-out sentences: whether the first candidate suits the text to the right better than the others.

    python training/held_out.py MIX_DIR held
    python benchmarks/rewrite.py held/classical-prose.jsonl [--passages 50] [--n 8] [--seed 0] [--model DIR] [--json FILE]

Sentences are drawn from all documents: 10 to 60 characters, with text on both sides. Prints the share of passages
whose first candidate scores above the candidates' mean on the text to the right, and which share of the distance from that mean to the
author's own sentence the first candidate has; the latter also for other weights of the candidates' own likelihood.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from models import save

import cpm_gen
from cpm_gen.runtime.rewrite import OWN_WEIGHT
from cpm_gen.text.documents import read_documents

LEFT, RIGHT = 300, 150  # least characters on each side of a sentence
WEIGHTS = sorted({0.0, 0.05, OWN_WEIGHT, 0.2, 0.5, 1.0})
SETTINGS: dict[str, Any] = {"temperature": 0.95, "top_k": 50, "top_p": 0.95}


def passages(path: Path, count: int, seed: int) -> list[tuple[str, int, int]]:
    """(text, start, end) of ``count`` sentences."""
    found = []
    for document in read_documents(path):
        text = document.text
        for match in re.finditer(r"[^。！？…“”\n]+[。！？]", text):
            start, end = match.span()
            if start >= LEFT and end <= len(text) - RIGHT and 10 <= end - start <= 60:
                found.append((text, start, end))
    return random.Random(seed).sample(found, min(count, len(found)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--passages", type=int, default=50)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--style", default="novel")
    parser.add_argument("--model", metavar="DIR")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the passages' figures as a JSON list")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    found: list[cpm_gen.Rewrites] = []
    with cpm_gen.load(args.model, threads=args.threads) as llm:
        for at, (text, start, end) in enumerate(passages(args.data, args.passages, args.seed)):
            began = time.perf_counter()
            result = llm.rewrite(text, start, end, n=args.n, style=args.style, seed=args.seed + at, **SETTINGS)
            seconds = time.perf_counter() - began
            if result.selection is None or len(result.candidates) < 2:
                print(f"passage {at}: {len(result.candidates)} candidates, left out")
                continue
            found.append(result)
            rights = [c.right for c in result.candidates if c.right is not None]
            rows.append(
                {
                    "passage": at,
                    "candidates": len(rights),
                    "drawn": result.drawn,
                    "first": rights[0],
                    "mean": fmean(rights),
                    "author": result.selection.right,
                    "seconds": seconds,
                }
            )
    above = sum(row["first"] > row["mean"] for row in rows)
    mean = {name: fmean(row[name] for row in rows) for name in ("candidates", "drawn", "seconds", "author", "mean")}
    print(
        f"{len(rows)} passages, {mean['candidates']:.2f} candidates of {mean['drawn']:.1f} samples each, {mean['seconds']:.2f} s"
    )
    print(f"first above the mean in right score: {above} ({above / len(rows):.0%})")
    distance = mean["author"] - mean["mean"]
    print(f"\nauthor's sentence above the mean: {distance:.3f} nats a token\n")
    print(
        "| weight of own likelihood | first above the mean | nats a token above the mean | share of the distance |\n|---|---|---|---|"
    )
    for weight in WEIGHTS:
        gains = []
        for result, row in zip(found, rows, strict=True):
            best = max(result.candidates, key=lambda c: (c.right or 0.0) + weight * c.own)
            gains.append((best.right or 0.0) - row["mean"])
        share = sum(gain > 0 for gain in gains) / len(gains)
        print(f"| {weight} | {share:.0%} | {fmean(gains):.3f} | {fmean(gains) / distance:.0%} |")
    save(rows, args.json)


if __name__ == "__main__":
    main()
