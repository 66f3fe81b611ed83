"""Startup: time to the first token on the command line, slow imports, and opening a large checkpoint.

    python benchmarks/startup.py [--runs 10] [--model cpm-medium] [--json FILE]

CPU seconds are user and system time of all threads, at the first token and at the end of the process. A checkpoint is opened with its
pages dropped from the page cache and again with them in it. Both are compared with only reading the same files from the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from models import random_checkpoint, save, size_of
from peers.worker import peak_rss_mb

from cpm_gen.config.model_sizes import ModelSize

COMMAND = ["-m", "cpm_gen", "generate", "从前", "--max-new-tokens", "1", "--seed", "1"]
IMPORT = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \| ( *)(\S+)")
WIDTH = {"float32": 4, "bfloat16": 2, "int8": 1}


def first_token() -> dict[str, float]:
    """Start the command line once; seconds until its first output and until its end."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *COMMAND], stdout=subprocess.PIPE)
    assert process.stdout is not None
    os.read(process.stdout.fileno(), 1)
    wall = time.perf_counter() - began
    spent = cpu_seconds(process.pid)
    process.stdout.read()
    process.stdout.close()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"cpm-gen ended with status {process.returncode}")
    return {
        "first_wall": wall,
        "first_cpu": spent,
        "wall": time.perf_counter() - began,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_rss_mb": usage.ru_maxrss * 1024 / 1e6,
    }


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a running process so far, all threads; NaN if the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def imports(runs: int) -> list[tuple[str, float, int]]:
    """(package, seconds in its own modules, modules), the heaviest first; medians."""
    found: list[Counter[str]] = []
    modules: Counter[str] = Counter()
    for _ in range(runs):
        log = subprocess.run([sys.executable, "-X", "importtime", *COMMAND], capture_output=True, text=True, check=True)
        spent: Counter[str] = Counter()
        modules.clear()
        for micros, _, _, name in IMPORT.findall(log.stderr):
            package = name.split(".")[0]
            spent[package if package not in sys.stdlib_module_names else "standard library"] += int(micros)
            modules[package if package not in sys.stdlib_module_names else "standard library"] += 1
        found.append(spent)
    medians = {name: statistics.median(spent[name] for spent in found) / 1e6 for name in found[0]}
    return [(name, s, modules[name]) for name, s in sorted(medians.items(), key=lambda item: -item[1])]


def drop_pages(files: list[Path]) -> None:
    """Drop these files from the page cache."""
    for file in files:
        with file.open("rb") as f:
            os.fsync(f.fileno())
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_speed(files: list[Path]) -> float:
    """Bytes per second when reading the files from the disk in order."""
    drop_pages(files)
    buffer = bytearray(8 << 20)
    count = 0
    began = time.perf_counter()
    for file in files:
        with file.open("rb", buffering=0) as f:
            while got := f.readinto(buffer):
                count += got
    return count / (time.perf_counter() - began)


def opened(folder: Path, size: ModelSize, dtype: str) -> dict[str, float]:
    """Load a checkpoint in a new process: seconds, memory before, and peak memory."""
    command = [sys.executable, __file__, "--open", str(folder), "--dtype", dtype, "--heads", str(size.heads)]
    answer: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return answer


def open_here(folder: str, dtype: str, heads: int) -> None:
    """The child process of :func:`opened`."""
    import cpm_gen

    precision: Any = {"quantize": "int8"} if dtype == "int8" else {"dtype": dtype}
    cpm_gen.load  # noqa: B018  # import torch first: not part of opening
    before = peak_rss_mb(reset=True)
    began = time.perf_counter()
    with cpm_gen.load(folder, heads=heads, batch=1, **precision):
        seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds, "before_mb": before, "peak_rss_mb": peak_rss_mb()}))


def checkpoint_rows(name: str, dtypes: list[str], runs: int) -> list[dict[str, Any]]:
    """Opening the checkpoint, cold and warm, at each precision."""
    size, rows = size_of(name), []
    with tempfile.TemporaryDirectory() as tmp:
        random_checkpoint(Path(tmp), name)
        files = sorted([*Path(tmp).glob("*/*.pt"), *Path(tmp).glob("*.bin")])
        on_disk = sum(f.stat().st_size for f in files)
        speed = statistics.median(read_speed(files) for _ in range(runs))
        for dtype in dtypes:
            weights = size.parameters * WIDTH[dtype]
            for cold in (True, False):
                done = []
                for _ in range(runs):
                    if cold:
                        drop_pages(files)
                    try:
                        done.append(opened(Path(tmp), size, dtype))
                    except subprocess.CalledProcessError:
                        print(f"skipped: opening in {dtype} failed", file=sys.stderr)
                        break
                if len(done) < runs:
                    break
                seconds = statistics.median(d["seconds"] for d in done)
                peak = statistics.median(d["peak_rss_mb"] - d["before_mb"] for d in done)
                rows.append(
                    {
                        "model": name,
                        "dtype": dtype,
                        "work": f"open a checkpoint, {'cold' if cold else 'in the page cache'}",
                        "seconds": round(seconds, 3),
                        "disk_gb_s": round(speed / 1e9, 2),
                        "times_reading": round(seconds / (on_disk / speed), 2),
                        "weights_mb": round(weights / 1e6),
                        "peak_rss_mb": round(statistics.median(d["peak_rss_mb"] for d in done)),
                        "times_weights": round(peak * 1e6 / weights, 3),
                    }
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10, help="of the command line; the rest runs a third as often")
    parser.add_argument("--model", default="cpm-medium", help="the checkpoint to open: of configs/, or tiny")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16", "int8"], choices=list(WIDTH))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    parser.add_argument("--open", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", help=argparse.SUPPRESS)
    parser.add_argument("--heads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        open_here(args.open, args.dtype, args.heads)
        return
    first_token()  # the files are in the page cache from here on: "cold" is the process
    starts = [first_token() for _ in range(args.runs)]
    medians = {key: statistics.median(s[key] for s in starts) for key in starts[0]}
    print("| embedded model, medians | wall (s) | CPU (s) | lowest | highest |\n|---|---|---|---|---|")
    for name, wall, cpu in (("first token", "first_wall", "first_cpu"), ("end of the process", "wall", "cpu")):
        spent = sorted(s[cpu] for s in starts)
        print(f"| {name} | {medians[wall]:.2f} | {medians[cpu]:.2f} | {spent[0]:.2f} | {spent[-1]:.2f} |")
    few = max(1, args.runs // 3)
    heavy = imports(few)
    print("\n| imports of | seconds in its own modules | modules |\n|---|---|---|")
    for name, seconds, modules in heavy[:10]:
        print(f"| {name} | {seconds:.3f} | {modules} |")
    print(f"| all | {sum(s for _, s, _ in heavy):.3f} | {sum(m for *_, m in heavy)} |")
    opening = checkpoint_rows(args.model, args.dtypes, few)
    print("\n| open | dtype | seconds | × reading the files | disk (GB/s) | weights (MB) | more memory, × weights |")
    print("|---|---|---|---|---|---|---|")
    for r in opening:
        print(
            f"| {r['model']}, {r['work'].split(', ')[1]} | {r['dtype']} | {r['seconds']:.2f} | {r['times_reading']:.2f} | "
            f"{r['disk_gb_s']:.2f} | {r['weights_mb']} | {r['times_weights']:.2f} |"
        )
    start = {"model": "embedded", "work": "cold start to the first token", "runs": args.runs}
    start |= {key: round(value, 3) for key, value in medians.items()}
    start["imports"] = {name: round(seconds, 4) for name, seconds, _ in heavy[:20]}
    save([start, *opening], args.json)


if __name__ == "__main__":
    main()
