"""Speed of 8-bit keys and values: decode steps with ``--kv-cache int8`` and without, in turns. cpm-gen only.

    python benchmarks/kv_cache.py --models cpm-distill cpm-medium --dtypes float32 bfloat16 int8 [--json FILE]

Every text of a batch has a prompt of ``--contexts`` random tokens; ``--steps`` greedy steps follow, a few at a time for each way. For
the cost in quality see ``benchmarks/perplexity.py``.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

from models import random_checkpoint, save
from peers.ours import Ours

from cpm_gen.engine.sequence import Sequence

TURN = 8  # steps


def start(ours: Ours, batch: int, context: int) -> list[Sequence]:
    """Sequences whose prompts are encoded."""
    dice = random.Random(5)
    most = ours.llm.size.vocabulary - 1
    texts = [ours.add([dice.randint(11, most) for _ in range(context)], context) for _ in range(batch)]
    while any(text.step == 0 for text in texts):
        ours.llm.engine.token_engine.step()
    return texts


def compare(ways: dict[str, Ours], batch: int, context: int, steps: int) -> dict[str, float]:
    """Median tokens per second of each way."""
    texts = {name: start(ours, batch, context) for name, ours in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(max(2, steps // TURN)):
        for name in list(ways) if turn % 2 == 0 else reversed(ways):
            for _ in range(TURN):
                began = time.perf_counter()
                advanced = ways[name].llm.engine.token_engine.step()
                times[name].append(time.perf_counter() - began)
                assert len(advanced) == batch
    for name, ours in ways.items():
        for text in texts[name]:
            ours.llm.engine.token_engine.cancel(text)
        ours.llm.engine.token_engine.step()
    return {name: batch / statistics.median(times[name]) for name in ways}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["cpm-distill"])
    parser.add_argument("--dtypes", nargs="+", choices=Ours.dtypes, default=list(Ours.dtypes))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--contexts", nargs="+", type=int, default=[200, 500])
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows = []
    print("| model | weights | texts | tokens each | tokens/s, and in 8 bits | |\n" + "|---" * 6 + "|")
    for model in args.models:
        with tempfile.TemporaryDirectory() as folder:
            random_checkpoint(Path(folder), model)
            for dtype in args.dtypes:
                ways = {"auto": Ours(), "int8": Ours()}
                for name, ours in ways.items():
                    ours.load(Path(folder), dtype, args.threads, max(args.batches), kv_cache=name)
                for batch in args.batches:
                    for context in args.contexts:
                        found = compare(ways, batch, context, args.steps)
                        ratio = found["int8"] / found["auto"]
                        where = {"model": model, "dtype": dtype, "batch": batch, "context": context}
                        rows.append(where | {k: round(v, 2) for k, v in found.items()} | {"ratio": round(ratio, 3)})
                        cells = f"{found['auto']:,.0f} / {found['int8']:,.0f} | **{ratio:.2f}**"
                        print(f"| {model} | {dtype} | {batch} | {context} | {cells} |", flush=True)
                for ours in ways.values():
                    ours.llm.close()
    save(rows, args.json)


if __name__ == "__main__":
    main()
