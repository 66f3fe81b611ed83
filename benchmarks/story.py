"""How often pinned names are mentioned in long texts, with and without a story.

    python benchmarks/story.py [--texts 10] [--tokens 1800] [--seed 100] [--set presence_penalty=0.8] [--only NAME] [--json FILE]

Each text continues a premise that mentions two people. "without" has no story; the others keep the premise, and what their names say, in
sight. Settings are those of ``configs/novel.yaml``; the embedded model writes. Counts are mentions a text in each quarter of its tokens.
The goal is five times as many in the last quarter as without. One pair of names is known to the model from its training texts, the
other one is not.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cpm_gen
from cpm_gen import Completion, Story
from cpm_gen.config.files import read_yaml, shipped

PREMISES = {
    ("林冲", "鲁智深"): (
        "林冲被高太尉陷害，刺配沧州；鲁智深一路暗中护送，二人在野猪林外相认。林冲和鲁智深商量，要趁着大雪上山投奔王伦，"
        "路上却遇见了追兵。"
    ),
    ("陈安", "赵小玉"): (
        "陈安在江边卖油，赵小玉在城里织布，二人从小相识。这一年大水，陈安和赵小玉都没了家，就约好一同上山去投亲，路上却遇见了"
        "强盗。"
    ),
}


def stories(names: Sequence[str], premise: str) -> dict[str, Story | None]:
    """The ways of keeping a premise in sight."""
    one, two = names
    memory = f"{one}还记得{two}的话。{two}也记得{one}的话。"
    characters = f"{one}为人谨慎，说话很少。{two}性子急，常和{one}争论。"
    note = f"{one}对{two}说了一句话，{two}看着{one}。"
    return {
        "without": None,
        "premise": Story(premise=premise),
        "premise, characters": Story(premise=premise, characters=characters),
        "premise, memory, characters": Story(premise=premise, memory=memory, characters=characters),
        "premise, characters, note at depth 0": Story(premise=premise, characters=characters, note=note, depth=0),
        "premise, note at depth 3": Story(premise=premise, note=note),
        "premise, note at depth 0": Story(premise=premise, note=note, depth=0),
        "all, note at depth 3": Story(premise=premise, memory=memory, characters=characters, note=note),
    }


def mentions(llm: cpm_gen.LLM, completion: Completion, names: Sequence[str]) -> list[int]:
    """Mentions of the names in each quarter of a text's tokens."""
    ids = completion.token_ids
    size = len(ids) // 4
    parts = [llm.tokenizer.decode(ids[at * size : (at + 1) * size]) for at in range(4)]
    return [sum(part.count(name) for name in names) for part in parts]


def settings(changes: str) -> dict[str, Any]:
    """Those of the preset for a generation, with the changes of ``--set``."""
    preset = {k: v for k, v in read_yaml(shipped("novel.yaml")).items() if not k.startswith("window_")}
    pairs = (pair.partition("=") for pair in changes.split(",") if pair)
    return preset | {name: float(value) for name, _, value in pairs}


def main() -> int:
    """Write the texts; print and store the counts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--set", default="", metavar="NAME=VALUE,…")
    parser.add_argument("--only", action="append", metavar="NAME", help="rows beside the one without a story")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the texts there")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    options = settings(args.set) | {"n": args.texts, "seed": args.seed, "max_new_tokens": args.tokens}
    found: list[dict[str, Any]] = []
    with cpm_gen.load(batch=args.texts, window_boundary="sentence") as llm:
        for names, premise in PREMISES.items():
            size = len(llm.encode(premise, "novel"))
            sys.stdout.write(f"{'、'.join(names)}: a premise of {size} tokens\n")
            for way, story in stories(names, premise).items():
                if story is not None and args.only and way not in args.only:
                    continue
                texts = llm.generate_many([premise], **options | ({} if story is None else {"story": story}))
                counts = [mentions(llm, text, names) for text in texts]
                mean = [sum(column) / len(counts) for column in zip(*counts, strict=True)]
                found.append({"names": names, "way": way, "mentions": counts})
                last = sorted(count[-1] for count in counts)
                quarters = " ".join(f"{n:5.1f}" for n in mean)
                sys.stdout.write(f"  {way:37} {quarters}   last quarter, text by text: {last}\n")
                sys.stdout.flush()
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    (args.keep / f"{names[0]} {way}.txt").write_text(
                        "\n\n----\n\n".join(t.text for t in texts), "utf-8"
                    )
    if args.json:
        args.json.write_text(
            json.dumps({"options": options, "rows": found}, ensure_ascii=False, indent=1) + "\n", "utf-8"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
