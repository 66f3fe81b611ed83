"""Write the records that training held out, as JSON lines for ``cpm-gen eval`` and ``eval-window``.

    python training/held_out.py MIX_DIR OUT_DIR

``MIX_DIR`` is what ``mix.py`` wrote. Writes a file for each of its sources: ``OUT_DIR/tang.jsonl``, ``ci.jsonl``, ….
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

HELD_OUT_EVERY = 200  # one record in 200 was not trained on; cpm-gen finetune --held-out 0.005 holds out the same


def records(source: Path) -> Iterator[tuple[bool, str]]:
    """(whether it is held out, text) of each poem and chapter of a source."""
    seen = 0
    for path in sorted(source.rglob("*.txt")):
        found = [r.strip("\n") for r in path.read_text(encoding="utf-8").replace("\r\n", "\n").split("\n\n")]
        for record in (r for r in found if r.strip()):
            seen += 1
            yield seen % HELD_OUT_EVERY == 0, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mix", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    sources = sorted(path for path in args.mix.iterdir() if path.is_dir())
    if not sources:
        sys.exit(f"{args.mix}: no folders of texts; give what mix.py wrote")
    args.out.mkdir(parents=True, exist_ok=True)
    for source in sources:
        texts = [text for is_held, text in records(source) if is_held]
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        (args.out / f"{source.name}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{source.name}: {len(texts)} records, {sum(map(len, texts)):,} characters")


if __name__ == "__main__":
    main()
