"""cpm-gen against peer engines: decoding at several batch sizes, and prefill, with the same weights and threads.

    python benchmarks/decode.py --models cpm-distill cpm-medium --dtypes float32 bfloat16 int8 --batches 1 8 32 --prefill 960 \\
        --rounds 3 --peer-python PEERS/bin/python --json FILE

The peers' Python needs the packages of ``benchmarks/requirements-peers.txt``. Each engine runs in its own process, which sleeps while
another one is measured. cpm-gen and a peer run in turns. Memory bandwidth is measured before and after each round. Ratios are taken within
a round; the tables show medians. First, every engine is checked on a tiny network; ``--check-only`` stops after that.

"of the roof" is the shortest possible time of a step (its least bytes, :func:`models.bytes_per_step`, at that bandwidth) divided by the
step's time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from bandwidth import Memory
from models import save
from peers import ENGINES
from peers.client import Peer, PeerError
from peers.pair import Work, compare, ratio, row, works
from peers.store import OURS, Store

from cpm_gen.config.model_sizes import ModelSize

HEADER = """
| model | dtype | work | batch | engine | tokens/s | of the roof | ours, beside it | of the roof | ours / engine | GB/s |
|---|---|---|---|---|---|---|---|---|---|---|"""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Comparison:
    """Runs pairs of engines and collects their rows."""

    def __init__(self, store: Store, args: argparse.Namespace) -> None:
        self.store = store
        self.args = args
        self.memory = Memory(args.threads)
        self.rows: list[dict[str, Any]] = []
        self.lines: list[str] = []

    def checked(self, dtype: str) -> list[str]:
        """The engines that support this precision and compute the same network."""
        fit = []
        for engine in self.args.engines:
            try:
                verdict = self.store.check(engine, dtype)
            except PeerError as error:
                say(f"skipped, {dtype}: {error}")
                continue
            say(f"{engine}, {dtype}: {verdict}")
            if verdict.passed:
                fit.append(engine)
        return fit

    def run(self, name: str, dtype: str, engines: list[str]) -> None:
        """Run cpm-gen beside every other engine; alone if there is no other, and the others alone without cpm-gen."""
        network, size = self.store.network(name)
        jobs = works(size, self.args.batches, self.args.prefill, self.args.tokens, self.args.seconds)
        with contextlib.ExitStack() as stack:
            ours = []
            if OURS in engines:
                try:
                    ours.append(self._ready(stack, network, OURS, dtype))
                except PeerError as error:
                    say(f"skipped, {name}, {dtype}: {error}")
            for engine in [e for e in engines if e != OURS] or [None]:
                try:
                    with contextlib.ExitStack() as one:
                        pair = ours + ([self._ready(one, network, engine, dtype)] if engine else [])
                        for work in jobs:
                            self._measure(pair, name, size, dtype, work)
                except PeerError as error:
                    say(f"skipped, {name}, {dtype}: {error}")

    def _ready(
        self, stack: contextlib.ExitStack, network: Path, engine: str, dtype: str
    ) -> tuple[Peer, dict[str, Any]]:
        target = self.store.converted(network, engine, dtype)
        peer = stack.enter_context(self.store.start(engine))
        batch = max([1, *self.args.batches])
        loaded = peer.ask("load", target=str(target), dtype=dtype, threads=self.args.threads, batch=batch)
        return peer, loaded

    def _measure(
        self, pair: list[tuple[Peer, dict[str, Any]]], name: str, size: ModelSize, dtype: str, work: Work
    ) -> None:
        done, bandwidths = compare([peer for peer, _ in pair], work, self.args.rounds, self.memory)
        shared = {"model": name, "parameters": size.parameters, "dtype": dtype, "threads": self.args.threads}
        rows = [
            {
                "engine": peer.name,
                "version": loaded["version"],
                **shared,
                **row(work, size, dtype, results, bandwidths),
                "load_peak_rss_mb": round(loaded["peak_rss_mb"]),
            }
            for (peer, loaded), results in zip(pair, done, strict=True)
        ]
        if len(rows) == 2:
            rows[0]["beside"] = rows[1]["engine"]
            rows[1]["ours_is_times"] = ratio(work, *done)
        self.rows += rows
        low, high = min(bandwidths) / 1e9, max(bandwidths) / 1e9
        bandwidth = {"bandwidth_gb_s": rows[0]["bandwidth_gb_s"], "lowest": round(low, 2), "highest": round(high, 2)}
        at = {"batch": rows[0]["batch"], "beside": rows[-1]["engine"]}
        self.rows.append({"engine": "memory", **shared, "work": f"read, around {work.name}", **at, **bandwidth})
        save(self.rows, self.args.json)
        self.lines.append(_line(rows))
        say(self.lines[-1])


def _line(rows: list[dict[str, Any]]) -> str:
    theirs, ours = rows[-1], rows[0] if rows[0]["engine"] == OURS else None
    cells = [theirs[key] for key in ("model", "dtype", "work", "batch", "engine")]
    cells += [f"{theirs['tokens_per_second']:.1f}", _percent(theirs)]
    cells += [f"{ours['tokens_per_second']:.1f}", _percent(ours)] if ours else ["–", "–"]
    cells += [f"{theirs['ours_is_times']:.2f}" if "ours_is_times" in theirs else "–", theirs["bandwidth_gb_s"]]
    return "| " + " | ".join(map(str, cells)) + " |"


def _percent(row: dict[str, Any]) -> str:
    return "–" if row["roofline_fraction"] is None else f"{100 * row['roofline_fraction']:.0f} %"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--models", nargs="+", default=["cpm-distill", "cpm-medium"], help="of configs/ or models.FOLDERS, or tiny"
    )
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "int8"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8, 32], help="batch sizes of decoding")
    parser.add_argument("--prefill", nargs="*", type=int, default=[960], help="lengths of prompts to encode")
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128, help="most tokens written to a text in one run")
    parser.add_argument("--seconds", type=float, default=10.0, help="most seconds of one run")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that the peers are installed in")
    parser.add_argument("--store", type=Path, help="keep the networks, in all formats, in this folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    parser.add_argument(
        "--no-check", action="store_true", help="do not check that all engines compute the same network"
    )
    parser.add_argument("--check-only", action="store_true")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory() as tmp:
        store = Store(args.store or Path(tmp), args.peer_python, args.threads)
        comparison = Comparison(store, args)
        fit = {dtype: args.engines if args.no_check else comparison.checked(dtype) for dtype in args.dtypes}
        for name in [] if args.check_only else args.models:
            for dtype in args.dtypes:
                comparison.run(name, dtype, fit[dtype])
            if args.store is None:
                store.drop(store.network(name)[0])
    if not args.check_only:
        print(f"{platform.machine()}, {args.threads} threads, {args.rounds} rounds, medians")
        print("\n".join([HEADER, *comparison.lines]))


if __name__ == "__main__":
    main()
