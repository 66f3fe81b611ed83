"""Tokens per second of cached and recomputing decoding, inside the window and past it.

    python benchmarks/decoders.py [--json FILE] [--models embedded cpm-distill] [--rounds 3]

"inside" runs from half a window to a full one. "past" writes as many tokens after that, over the same context lengths, the slide
included. Recomputing is timed on a few tokens in the middle of each stretch. The four are measured in turns, several times. The
table shows medians; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from models import random_checkpoint, save

import cpm_gen
from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.sequence import Request, Sequence
from cpm_gen.llm import LLM

ORACLE_TOKENS = 6


def begin(llm: LLM, length: int) -> Sequence:
    """A sequence whose prompt of ``length`` tokens is already encoded."""
    prompt = tuple((7919 * i) % (llm.size.vocabulary - 16) + 11 for i in range(length))
    request = Request(prompt=prompt, window=llm.window, ends=None, params=SamplingParams(top_k=20), seed=0)
    sequence = llm.engine.token_engine.add(request)
    llm.engine.token_engine.step()
    return sequence


def rate(llm: LLM, count: int) -> float:
    """Tokens per second over the next ``count`` steps."""
    began = time.perf_counter()
    for _ in range(count):
        llm.engine.token_engine.step()
    return count / (time.perf_counter() - began)


def cached(llm: LLM) -> dict[str, float]:
    limit, hop = llm.window.limit, llm.window.hop
    sequence = begin(llm, limit - hop)
    inside = rate(llm, limit - len(sequence.tokens))
    past = rate(llm, hop)
    assert sequence.slides == 1, "the stretch past the window holds one move of it"
    llm.engine.token_engine.cancel(sequence)
    return {"inside": inside, "past": past}


def recompute(llm: LLM) -> dict[str, float]:
    limit, hop = llm.window.limit, llm.window.hop
    result = {}
    for where, length in (("inside", limit - hop // 2), ("past", limit + hop // 2)):
        sequence = begin(llm, length)
        result[where] = rate(llm, ORACLE_TOKENS)
        llm.engine.token_engine.cancel(sequence)
    return result


def measure(folder: Path | None, name: str, heads: int | None, rounds: int) -> list[dict[str, Any]]:
    samples: list[dict[str, float]] = []
    options: dict[str, Any] = {"heads": heads}
    with (
        cpm_gen.load(folder, decoder="cached", **options) as fast,
        cpm_gen.load(folder, decoder="recompute", **options) as oracle,
    ):
        cached(fast)  # warm up
        for _ in range(rounds):
            samples.append(
                {
                    **{f"cached {k}": v for k, v in cached(fast).items()},
                    **{f"recompute {k}": v for k, v in recompute(oracle).items()},
                }
            )
            print(f"  {name}: " + ", ".join(f"{k} {v:.2f}" for k, v in samples[-1].items()), file=sys.stderr)
        parameters = fast.size.parameters
        threads = torch.get_num_threads()
    median = {k: statistics.median(s[k] for s in samples) for k in samples[0]}

    def ratio(above: str, below: str) -> float:
        return statistics.median(s[above] / s[below] for s in samples)

    return [
        {
            "engine": f"cpm-gen {decoder}",
            "version": cpm_gen.__version__,
            "model": name,
            "parameters": parameters,
            "dtype": "float32",
            "threads": threads,
            "work": f"decode, {where} the window",
            "batch": 1,
            "tokens_per_second": round(median[f"{decoder} {where}"], 3),
            "times_recompute": round(ratio(f"{decoder} {where}", f"recompute {where}"), 3),
            "times_inside": round(ratio(f"{decoder} {where}", f"{decoder} inside"), 3),
        }
        for decoder in ("cached", "recompute")
        for where in ("inside", "past")
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["embedded", "cpm-distill"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in args.models:
        if name == "embedded":
            rows += measure(None, name, None, args.rounds)
            continue
        with tempfile.TemporaryDirectory() as tmp:
            size = random_checkpoint(Path(tmp, name), name)
            rows += measure(Path(tmp, name), name, size.heads, args.rounds)
    print(f"{platform.machine()}, torch {torch.__version__}, {args.rounds} rounds, medians\n")
    print("| model | decoder | where | threads | tokens/s | × recompute | × inside |")
    print("|---|---|---|---|---|---|---|")
    for r in rows:
        decoder, where = r["engine"].split()[1], r["work"].split()[1]
        print(
            f"| {r['model']} | {decoder} | {where} | {r['threads']} | {r['tokens_per_second']:.1f} | "
            f"{r['times_recompute']:.1f} | {r['times_inside']:.2f} |"
        )
    save(rows, args.json)


if __name__ == "__main__":
    main()
