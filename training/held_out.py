"""Write the records that were held out of the first edition's training, as JSON lines for ``cpm-gen eval`` and ``eval-window``.

    python training/held_out.py TEXT_DIR OUT_DIR

``TEXT_DIR`` is the folder that the model was trained on. Writes ``OUT_DIR/tang.jsonl``, ``ci.jsonl`` and ``prose.jsonl``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

SHARES = ("tang", "ci", "prose")
HELD_OUT_EVERY = 200  # one record in 200 was not trained on; cpm-gen finetune --held-out 0.005 holds out the same


def records(text_dir: Path) -> Iterator[tuple[str, bool, str]]:
    """(kind, whether it is held out, text) of each poem and chapter."""
    seen = dict.fromkeys(SHARES, 0)
    for path in sorted(text_dir.rglob("*.txt")):
        lyric = path.parent.name == "lyric"
        kind = ("tang" if path.stem == "tangshi" else "ci") if lyric else "prose"
        found = [r.strip("\n") for r in path.read_text(encoding="utf-8").replace("\r\n", "\n").split("\n\n")]
        for record in (r for r in found if r.strip()):
            seen[kind] += 1
            yield kind, seen[kind] % HELD_OUT_EVERY == 0, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    held: dict[str, list[str]] = {kind: [] for kind in SHARES}
    for kind, is_held, record in records(args.text):
        if is_held:
            held[kind].append(record)
    args.out.mkdir(parents=True, exist_ok=True)
    for kind, texts in held.items():
        lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
        (args.out / f"{kind}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{kind}: {len(texts)} records, {sum(map(len, texts)):,} characters")


if __name__ == "__main__":
    main()
