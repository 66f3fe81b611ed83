"""Throughput of ``cpm-gen batch``: one text at a time, a whole batch, several processes. The time to load a model is not counted.

    python benchmarks/batch_command.py --model cpm-distill --texts 64 --tokens 64 [--json FILE]

The ways run in turns. Each writes the same lines, with prompts of token ids, to a file; the texts must be the same. ``--model embedded`` is
the included model. ``--ray N`` adds N workers of a Ray cluster; they load their models within the time, so the time of the first result is
shown, too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from models import random_checkpoint, save

from cpm_gen.batch.lines import LineReader
from cpm_gen.batch.output_file import OutputFile, Written
from cpm_gen.batch.replicas import Replicas
from cpm_gen.batch.run import Workers, run_batch
from cpm_gen.batch.writer import Writer
from cpm_gen.config.resolve import Settings, resolve
from cpm_gen.runtime.text_engine import TextEngine

Open = Callable[[], contextlib.AbstractContextManager[Workers]]


def lines(count: int, tokens: int) -> list[bytes]:
    """The lines; the same in every run. The texts have from half to one and a half times ``tokens``."""
    dice = random.Random(3)
    return [
        json.dumps(
            {
                "id": n,
                "prompt": [dice.randint(11, 7999) for _ in range(dice.randint(5, 40))],
                "max_new_tokens": dice.randint(tokens // 2, tokens * 3 // 2),
            }
        ).encode()
        for n in range(count)
    ]


@contextlib.contextmanager
def one_process(settings: Settings) -> Iterator[Workers]:
    with TextEngine.load(settings.model) as engine:
        yield Writer(engine, settings)


@contextlib.contextmanager
def replicas(settings: Settings, count: int) -> Iterator[Workers]:
    with contextlib.closing(Replicas(settings, count)) as workers:
        yield workers


@contextlib.contextmanager
def on_ray(settings: Settings, count: int) -> Iterator[Workers]:
    from cpm_gen.batch.ray_data import RayData

    with contextlib.closing(RayData(settings, count)) as workers:
        yield workers


def run(open_workers: Open, todo: list[bytes]) -> tuple[float, float, dict[str, list[int]]]:
    """Seconds to write the lines, to write the first result, and the token ids by id."""
    with open_workers() as workers, tempfile.TemporaryDirectory() as tmp:
        output = OutputFile(Path(tmp, "out.jsonl"))
        began = time.perf_counter()
        written: list[float] = []
        run_batch(
            iter(LineReader(todo, Written())),
            workers,
            output,
            report=lambda _: written.append(time.perf_counter() - began),
        )
        output.close()
        found = [json.loads(line) for line in Path(tmp, "out.jsonl").read_bytes().splitlines()]
    return written[-1], written[0], {result["id"]: result["token_ids"] for result in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cpm-distill", help="of configs/, tiny, or embedded")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64, help="of a text, on average")
    parser.add_argument("--batches", nargs="*", type=int, default=[8, 32])
    parser.add_argument("--replicas", nargs="*", type=int, default=[2])
    parser.add_argument("--ray", nargs="*", type=int, default=[], metavar="N", help="workers of a Ray cluster")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        flags: dict[str, Any] = {"dtype": args.dtype, "temperature": 0.95, "top_k": 50, "top_p": 0.95}
        if args.model != "embedded":
            random_checkpoint(Path(tmp, args.model), args.model)
            flags["model"] = str(Path(tmp, args.model))
        settings = {b: resolve(flags=flags | {"batch": b}) for b in {1, *args.batches}}
        ways: dict[str, Open] = {"one by one": lambda: one_process(settings[1])}
        for batch in args.batches:
            ways[f"batch {batch}"] = lambda batch=batch: one_process(settings[batch])
            for count in args.replicas:
                ways[f"batch {batch}, {count} replicas"] = lambda batch=batch, count=count: replicas(
                    settings[batch], count
                )
            for count in args.ray:
                ways[f"batch {batch}, {count} Ray workers"] = lambda batch=batch, count=count: on_ray(
                    settings[batch], count
                )
        todo = lines(args.texts, args.tokens)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        firsts: dict[str, list[float]] = {way: [] for way in ways}
        texts: dict[str, list[int]] = {}
        for number in range(args.rounds):
            for way in list(ways) if number % 2 == 0 else reversed(ways):
                took, first, found = run(ways[way], todo)
                assert found == (texts or found), f"{way}: other texts"
                texts = found
                seconds[way].append(took)
                firsts[way].append(first)
                print(f"  {way}: {took:.2f} s", file=sys.stderr)
    tokens = sum(map(len, texts.values()))
    alone = seconds["one by one"]
    rows = [
        {
            "work": way,
            "model": args.model,
            "dtype": args.dtype,
            "texts": args.texts,
            "tokens": tokens,
            "tokens_per_second": round(statistics.median(tokens / s for s in took), 1),
            "times_one_by_one": round(statistics.median(a / s for a, s in zip(alone, took, strict=True)), 2),
            "seconds": [round(s, 3) for s in took],
            "first_result": [round(s, 3) for s in firsts[way]],
        }
        for way, took in seconds.items()
    ]
    print(f"{args.model}, {args.dtype}, {args.texts} texts, {tokens:,} tokens, medians of {args.rounds} rounds\n")
    print("| way | tokens/s | × one by one | first result (s) |\n|---|---|---|---|")
    for row in rows:
        first = statistics.median(row["first_result"])
        print(f"| {row['work']} | {row['tokens_per_second']:.1f} | {row['times_one_by_one']:.2f} | {first:.1f} |")
    save(rows, args.json)


if __name__ == "__main__":
    main()
