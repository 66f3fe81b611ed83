"""Put the last of some training runs into a folder as the package's embedded model: its weights, vocabulary, bigrams and figures.

    python training/edition.py STAGE [STAGE ...] OUT_DIR --texts MIX_DIR --held HELD_DIR --before DIR

Each ``STAGE`` is a folder that ``cpm-gen finetune`` wrote, in their order; ``MIX_DIR`` is what ``mix.py`` wrote, and ``HELD_DIR`` what
``held_out.py`` wrote. ``--before`` is the model that the first stage began with: its training counts as well, and held-out texts are
compared with it. ``MODEL_CARD.md`` is written by hand from ``training.json``; ``scripts/make-samples`` writes its samples.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

VERSION = 2  # of training.json; 1 is the first edition's
KEPT = (
    "based_on",
    "steps",
    "tokens",
    "seconds",
    "learning_rate",
    "batch",
    "length",
    "optimizer",
    "precision",
    "seed",
    "torch",
    "weights_sha256",
)
VERSE = ("tang", "ci", "modern-verse")  # sources that are read as lyrics
SIZES = ("layers", "hidden", "heads", "vocabulary", "positions", "parameters")


def cpm_gen(*words: object) -> str:
    """What a command prints; the script ends where it fails."""
    done = subprocess.run([sys.executable, "-m", "cpm_gen", *map(str, words)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"edition.py: cpm-gen {words[0]} failed")
    return done.stdout


def read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return found


def stage(run: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run's figures; of a path only its last part."""
    based, shares = run["based_on"], {source["name"]: source["share"] for source in run["data"]}
    return {key: run[key] for key in KEPT} | {"based_on": based and Path(based).name, "shares": shares}


def stages_of(model: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages of a model's training, by its ``training.json``: an edition's, the first edition's (version 1), or that of one run."""
    if "stages" in model:
        found: list[dict[str, Any]] = model["stages"]
        return found
    if "tokens_trained" in model:
        kept = {key: model[key] for key in ("steps", "learning_rate", "seed", "torch", "shares")}
        return [{"based_on": None, "tokens": model["tokens_trained"], "seconds": 60 * model["minutes"], **kept}]
    return [stage(model)]


def measured(model: Path, before: Path, held: Path, window: int) -> dict[str, Any]:
    """Losses on each file of texts in nats per character, beside the model ``before``. window: tokens that both can see."""
    losses = {}
    for path in sorted(held.glob("*.jsonl")):
        style = "lyric" if path.stem in VERSE else "novel"
        how = ("--data", path, "--style", style, "--window-limit", window, "--json")
        found = json.loads(cpm_gen("eval", model, "--against", before, *how))
        losses[path.stem] = {
            "documents": found["documents"],
            "characters": found["characters"],
            "window": window,
            "nats_per_character": found["loss_per_character"],
            "before": found["against"]["loss_per_character"],
            "difference": found["against"]["difference"]["loss_per_character"],
        }
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", type=Path, nargs="+", metavar="STAGE")
    parser.add_argument("out", type=Path, metavar="OUT_DIR")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--held", type=Path, required=True)
    parser.add_argument("--before", type=Path, required=True)
    args = parser.parse_args()
    runs = [read(folder) for folder in args.stages]
    cpm_gen("convert", args.stages[-1], args.out, "--to", "shards", "--dtype", "float16", "--force")
    cpm_gen("form", "learn", *(args.texts / name for name in VERSE), "--model", args.out)
    before = read(args.before)
    stages = stages_of(before) + [stage(run) for run in runs]
    facts = {
        "version": VERSION,
        **{key: runs[-1][key] for key in SIZES},
        "steps": sum(stage["steps"] for stage in stages),
        "tokens_trained": sum(stage["tokens"] for stage in stages),
        "stages": stages,
        "data": runs[-1]["data"],
        "held_out": measured(args.out, args.before, args.held, min(run["positions"] for run in (before, runs[-1])) - 1),
    }
    (args.out / "training.json").write_text(json.dumps(facts, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
