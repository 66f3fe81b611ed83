"""Write the first poems of a file as a folder of songs, for the example of ``docs/finetuning.md``.

    python training/songs.py FILE OUT_DIR [--count N]

``FILE`` holds poems between blank lines, as ``MODERN_DIR/verse-modern/徐志摩.txt`` of ``mix.py`` does. Writes each to a file of its own:
``OUT_DIR/01.txt``, ``02.txt``, ….
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=20)
    args = parser.parse_args()
    text = args.file.read_text(encoding="utf-8")
    poems = [record.strip("\n") for record in text.split("\n\n") if record.strip()][: args.count]
    if len(poems) < args.count:
        sys.exit(f"{args.file}: {len(poems)} poems between blank lines, not {args.count}")
    args.out.mkdir(parents=True)
    for number, poem in enumerate(poems, start=1):
        (args.out / f"{number:02}.txt").write_text(f"{poem}\n", encoding="utf-8")
    print(f"{args.out}: {len(poems)} poems, {sum(map(len, poems)):,} characters")


if __name__ == "__main__":
    main()
