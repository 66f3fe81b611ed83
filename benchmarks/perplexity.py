"""Quality of formats of weights, keys and values: perplexity on held-out text, against float32.

    python benchmarks/perplexity.py held/tang.jsonl held/ci.jsonl held/classical-prose.jsonl [--model DIR] [--count 12000] [--json FILE]

``training/held_out.py`` writes such files, on which the embedded model was not trained: verse as ``tang`` and ``ci``, all others prose. The
texts of a file are joined, and scored in consecutive full windows; unknown characters are not counted.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from models import save

import cpm_gen
from cpm_gen.config.options import StyleName

VERSE = ("tang", "ci", "modern-verse")
FORMATS: dict[str, dict[str, Any]] = {
    "float32, torch": {"kernels": "torch"},
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantize": "int8"},
    "float32, keys and values int8": {"kv_cache": "int8"},
    "bfloat16, keys and values int8": {"dtype": "bfloat16", "kv_cache": "int8"},
    "int8, keys and values int8": {"quantize": "int8", "kv_cache": "int8"},
    "int8 weights, torch": {"quantize": "int8", "kernels": "torch"},
    "int8 weights, bfloat16, torch": {"quantize": "int8", "dtype": "bfloat16", "kernels": "torch"},
}


def stream(llm: cpm_gen.LLM, path: Path) -> list[int]:
    """The tokens of the texts of a file, with the token that ends a text between."""
    style: StyleName = "lyric" if path.stem in VERSE else "novel"
    end = [] if llm.tokenizer.end is None else [llm.tokenizer.end]
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [i for text in texts for i in (*llm.encode(text, style), *end)]


def nats(llm: cpm_gen.LLM, stream: list[int]) -> float:
    """Mean negative log-probability of a token."""
    total, count = 0.0, 0
    limit = llm.size.positions
    for at in range(0, len(stream) - limit + 1, limit - 1):
        ids = stream[at : at + limit]
        scores = llm.score(ids)[1:]
        known = [-s for s, i in zip(scores, ids[1:], strict=True) if i != llm.tokenizer.unk and s is not None]
        total += sum(known)
        count += len(known)
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs="+", help="JSON lines, each with a text")
    parser.add_argument("--model", metavar="DIR")
    parser.add_argument("--count", type=int, default=12_000, help="tokens of each kind")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a JSON list")
    args = parser.parse_args()
    with cpm_gen.load(args.model, window_limit=None) as llm:
        streams = {path.stem: stream(llm, path)[: args.count] for path in args.texts}
    rows = []
    exact: dict[str, float] = {}
    print("| weights | " + " | ".join(streams) + " |\n|---" + "|---" * len(streams) + "|")
    for name, options in FORMATS.items():
        with cpm_gen.load(args.model, window_limit=None, **options) as llm:
            found = {kind: nats(llm, stream) for kind, stream in streams.items()}
        exact = exact or found
        cells = []
        for kind, value in found.items():
            change = math.expm1(value - exact[kind])
            rows.append({"format": name, "kind": kind, "perplexity": math.exp(value), "change": change})
            cells.append(f"{math.exp(value):.2f} ({change:+.3%})")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    save(rows, args.json)


if __name__ == "__main__":
    main()
