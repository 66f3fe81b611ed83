"""Write the records that ``train.py`` holds out, as JSON lines for ``cpm-gen eval`` and ``eval-window``.

    python training/held_out.py TEXT_DIR OUT_DIR

``TEXT_DIR`` is the folder that the model was trained on. Writes ``OUT_DIR/tang.jsonl``, ``ci.jsonl`` and ``prose.jsonl``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from train import SHARES, records


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
