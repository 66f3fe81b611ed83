"""Cost of sampling: microseconds per row, and milliseconds for a batch of 32 rows.

    python benchmarks/sampling.py [--json FILE] [--rows 32] [--repeats 50]

The vocabulary has 30,000 tokens. "trained": the token of rank r has a logit of -1.5 log r, plus noise, so that about 50 tokens have a
probability of 0.9 together. "random": independent normal numbers, as random weights produce, of which 18,000 have 0.9 together. The
context is full: 1,000 tokens, 500 of them generated. Times are the minimum over many repeats of the same draw, averaged over rows,
because other programs may use the machine.

    python benchmarks/sampling.py --dry [--json FILE]

What the DRY penalty costs for each token, in microseconds, with several kinds of 20,000 tokens of history: 100 tokens are appended, many
times over, and of each token the minimum counts.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from models import save
from numpy.typing import NDArray

from cpm_gen.config.files import shipped
from cpm_gen.config.options import DRY_HISTORY, SamplingParams
from cpm_gen.config.resolve import resolve
from cpm_gen.sampling import sample
from cpm_gen.sampling.dry import SuffixMatches, dry_penalties

VOCABULARY = 30_000
DRY_STEPS = 100  # tokens that are appended
PADDING = tuple(range(VOCABULARY - 300, VOCABULARY))
CASES = {
    "greedy": SamplingParams(temperature=0),
    "temperature 0.95": SamplingParams(temperature=0.95),
    "temperature 0.95, 300 banned": SamplingParams(temperature=0.95, banned_ids=PADDING),
    "top-k 40": SamplingParams(top_k=40),
    "top-p 0.9": SamplingParams(top_p=0.9),
    "min-p 0.05": SamplingParams(min_p=0.05),
    "repetition 1.2, top-p 0.9": SamplingParams(repetition_penalty=1.2, top_p=0.9),
    "presence and frequency 0.5": SamplingParams(presence_penalty=0.5, frequency_penalty=0.5),
    "no 3-gram twice, top-k 40": SamplingParams(no_repeat_ngram=3, top_k=40),
}


def some_logits(kind: str, rows: int) -> NDArray[np.float32]:
    """Logits ``[rows, VOCABULARY]``."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(rows, VOCABULARY))
    if kind == "trained":
        ranks = np.log(np.arange(1, VOCABULARY + 1))
        noise = 0.5 * noise - 1.5 * generator.permuted(np.tile(ranks, (rows, 1)), axis=1)
    return noise.astype(np.float32)


def measure(logits: NDArray[np.float32], params: SamplingParams, repeats: int) -> float:
    """Seconds to sample one row: the mean of the rows' minimum times."""
    context = array("q", np.random.default_rng(1).integers(0, 5000, 1000).tobytes())
    looks_back = params.repetition_penalty != 1.0 or params.no_repeat_ngram > 0
    counts = params.presence_penalty != 0 or params.frequency_penalty != 0
    least = [math.inf] * len(logits)
    for _ in range(repeats):  # repeat the same draw: whether float64 must decide depends on the random number
        for index, row in enumerate(logits):
            began = time.perf_counter()
            sample.sample(
                row,
                params,
                context=context if looks_back else (),
                written=context[500:] if counts else (),
                forbidden=frozenset(),
                seed=1,
                sample_index=index,
                step=0,
            )
            least[index] = min(least[index], time.perf_counter() - began)
    return statistics.mean(least)


def texts() -> dict[str, array[int]]:
    """``DRY_HISTORY + DRY_STEPS`` tokens each, from text as models write it to texts that repeat as much as texts can."""
    size = DRY_HISTORY + DRY_STEPS
    dice = np.random.default_rng(0)
    at = np.arange(size)
    line = np.resize(dice.integers(10, VOCABULARY, 30), size)
    words = np.minimum(dice.zipf(1.2, size), VOCABULARY - 1)
    kinds = {
        "tokens as frequent as words": words,
        "a refrain of 40 tokens in each 100": np.where(at % 100 >= 60, words[at % 100], words),
        "one line of 30 tokens": line,
        "that line, its last token changed each time": np.where(at % 30 == 29, at // 30 % 400, line),
        "one token": np.full(size, 7),
        "two tokens in turn": at % 2,
        "two tokens at random": dice.integers(0, 2, size),
        "one token before each of 10,000 others": np.where(at % 2 == 1, 7, 10 + at // 2),
    }
    return {name: array("q", tokens.astype(np.int64).tobytes()) for name, tokens in kinds.items()}


def measure_dry(repeats: int) -> list[dict[str, Any]]:
    """Mean and greatest microseconds of the penalties of one token, while a text of 20,000 tokens grows."""
    rows: list[dict[str, Any]] = []
    print("| history | least length | µs, mean | µs, greatest |\n|---|---:|---:|---:|")
    for name, text in texts().items():
        grown = [text[: end + 1] for end in range(DRY_HISTORY, len(text))]
        for least in (1, 2, 4):
            params = SamplingParams(dry_multiplier=0.8, dry_allowed_length=least)
            micros = np.full(len(grown), math.inf)  # of each token, the minimum over the repeats
            for _ in range(repeats):
                matches = SuffixMatches(text[:DRY_HISTORY])
                for step, tokens in enumerate(grown):
                    began = time.perf_counter()
                    matches.extend(tokens)
                    dry_penalties(matches, params)
                    micros[step] = min(micros[step], 1e6 * (time.perf_counter() - began))
            print(f"| {name} | {least} | {micros.mean():.0f} | {micros.max():.0f} |")
            rows.append(
                {"history": name, "least": least, "us": round(micros.mean()), "us_greatest": round(micros.max())}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--dry", action="store_true", help="the DRY penalty instead")
    args = parser.parse_args()
    if args.dry:
        save(measure_dry(args.repeats), args.json)
        return
    presets = {
        f"{name}.yaml": resolve(files=[shipped(f"{name}.yaml")]).sampling for name in ("lyric", "novel", "original")
    }
    rows: list[dict[str, Any]] = []
    print("| parameters | logits | µs per row | ms for 32 rows |\n|---|---|---:|---:|")
    for name, params in (CASES | presets).items():
        for kind in ("trained", "random"):
            micros = 1e6 * measure(some_logits(kind, args.rows), params, args.repeats)
            print(f"| {name} | {kind} | {micros:.1f} | {32 * micros / 1000:.2f} |")
            rows.append({"parameters": name, "logits": kind, "vocabulary": VOCABULARY, "us_per_row": round(micros, 1)})
    save(rows, args.json)


if __name__ == "__main__":
    main()
