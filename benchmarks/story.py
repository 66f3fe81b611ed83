"""How often pinned names are mentioned in long texts, with and without a story.

    python benchmarks/story.py [--texts 10] [--tokens 1800] [--seed 100] [--json FILE]

Each text continues the same prompt, in which both names occur, with the settings of ``configs/novel.yaml``, once alone and once with
the prompt's premise as a story. The embedded model writes. Counts are mentions a text in each quarter of its tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import cpm_gen
from cpm_gen import Story
from cpm_gen.outputs import Completion

NAMES = ("林冲", "鲁智深")
PROMPT = "林冲和鲁智深在路上走了三天，雪一直没有停。林冲对鲁智深说："
STORY = Story(
    premise="林冲和鲁智深是兄弟。林冲被高太尉陷害，逃出东京；鲁智深一路护送林冲，二人要到山上去。",
    note="林冲和鲁智深还在路上。",
)


def mentions(llm: cpm_gen.LLM, completion: Completion) -> list[int]:
    """Mentions of the names in each quarter of a text's tokens."""
    ids = completion.token_ids
    size = len(ids) // 4
    parts = [llm.tokenizer.decode(ids[at * size : (at + 1) * size]) for at in range(4)]
    return [sum(part.count(name) for name in NAMES) for part in parts]


def main() -> int:
    """Write the texts; print and store the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    settings = {"style": "novel", "temperature": 0.95, "top_k": 50, "top_p": 0.95}
    found = {}
    with cpm_gen.load(batch=args.texts, window_boundary="sentence") as llm:
        for way, story in (("without", {}), ("with story", {"story": STORY})):
            texts = llm.generate_many(
                [PROMPT], n=args.texts, seed=args.seed, max_new_tokens=args.tokens, **settings, **story
            )
            counts = [mentions(llm, text) for text in texts]
            found[way] = [sum(column) / len(counts) for column in zip(*counts, strict=True)]
            quarters = "  ".join(f"{n:5.1f}" for n in found[way])
            sys.stdout.write(f"{way:12} mentions a text, by quarter: {quarters}\n")
            sys.stdout.flush()
    if args.json:
        args.json.write_text(json.dumps(vars(args) | {"json": None, "mentions": found}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
