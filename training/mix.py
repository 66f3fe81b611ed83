"""Sort texts into the sources of the embedded model, and write ``mix.yaml`` for ``cpm-gen finetune --data``.

    python training/mix.py TEXT_DIR OUT_DIR [--modern MODERN_DIR [--tiers A,A-]]

``TEXT_DIR`` is what ``corpus.py`` wrote. ``MODERN_DIR`` holds ``prose-modern/*.txt``, ``verse-modern/*.txt`` and ``manifest.tsv``, a line a
file: file, author, year of death, work, characters, records, tier. Tiers A and A- are free in the EU as well (the author died by 1955),
B* and B in China and other countries with life + 50 years. Files are linked where the system can, and copied elsewhere.

The shares are for 100 M tokens: modern prose counts most, modern verse as often as 0.23 M tokens can be read before they are learned by
heart. Modern verse begins with the line 【新诗】, so that a prompt can ask for it.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
from pathlib import Path

import yaml

# source -> (style, share, first line); verse is one record a poem, prose one a chapter
SOURCES = {
    "modern-prose": ("novel", 45, ""),
    "little-prose": ("novel", 5, ""),
    "classical-prose": ("novel", 15, ""),
    "modern-verse": ("lyric", 3, "【新诗】"),
    "ci": ("lyric", 16, ""),
    "tang": ("lyric", 16, ""),
}
LITTLE = ("李涵秋", "杂文", "杂论", "和合本")  # semi-classical, essays, a translation: read seldom


def source_of(path: Path) -> str | None:
    """The source that a file belongs to; None: it is left out."""
    little = any(name in path.stem for name in LITTLE)
    kind = path.parent.name
    if kind == "verse-modern":
        return None if little else "modern-verse"
    if kind == "prose-modern":
        return "little-prose" if little else "modern-prose"
    if kind == "lyric":
        return "tang" if path.stem == "tangshi" else "ci"
    return "classical-prose"


def allowed(modern: Path, tiers: str | None) -> list[Path]:
    """The modern files of these tiers; None: of all."""
    found = sorted(modern.glob("*-modern/*.txt"))
    if tiers is None:
        return found
    wanted = set(tiers.split(","))
    with (modern / "manifest.tsv").open(encoding="utf-8") as file:
        tier = {row["file"]: row["tier"] for row in csv.DictReader(file, delimiter="\t")}
    return [path for path in found if tier.get(f"{path.parent.name}/{path.name}") in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--modern", type=Path)
    parser.add_argument("--tiers")
    args = parser.parse_args()
    paths = sorted([*args.text.glob("lyric/*.txt"), *args.text.glob("novel/*.txt")])
    if args.modern is not None:
        paths += allowed(args.modern, args.tiers)
    if not paths:
        sys.exit(f"{args.text}: no lyric/*.txt or novel/*.txt")
    for path in paths:
        source = source_of(path)
        if source is None or not path.read_text(encoding="utf-8").strip():
            continue
        target = args.out / source / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
    texts = [
        {"path": name, "style": style, "share": share, "records": True, **({"first_line": first} if first else {})}
        for name, (style, share, first) in SOURCES.items()
        if (args.out / name).is_dir()
    ]
    (args.out / "mix.yaml").write_text(yaml.safe_dump({"texts": texts}, allow_unicode=True, sort_keys=False))
    for entry in texts:
        files = list((args.out / str(entry["path"])).iterdir())
        characters = sum(len(path.read_text(encoding="utf-8")) for path in files)
        print(f"{entry['path']}: {len(files)} files, {characters:,} characters, share {entry['share']}")


if __name__ == "__main__":
    main()
