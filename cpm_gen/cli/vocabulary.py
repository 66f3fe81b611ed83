"""``cpm-gen vocabulary``: make a vocabulary from texts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cpm_gen.checkpoints.publish import check_target, new_folder
from cpm_gen.cli.progress import Status
from cpm_gen.errors import InputError
from cpm_gen.text.cpm_tokenizer import Tokenizer
from cpm_gen.text.documents import read_documents
from cpm_gen.text.make_vocabulary import make_vocabulary
from cpm_gen.translation import localized

_SAMPLE = 200_000  # characters that the report encodes


def vocabulary(args: argparse.Namespace) -> int:
    """Run the command. Raises InputError for texts that cannot be read or give no vocabulary, and for a target that exists or holds one."""
    target = Path(args.output)
    check_target(target, map(Path, args.texts), force=args.force)
    if not target.absolute().parent.is_dir():
        raise InputError(f"{target}: there is no folder {target.absolute().parent}")
    texts = [document.text for name in args.texts for document in read_documents(name)]
    characters = sum(map(len, texts))
    with Status(beside_text=False) as status:
        said = f"learning {args.pieces:,} pieces from {characters:,} characters; Ctrl-C ends it"
        status.show(localized(said), force=True)
        with new_folder(target.absolute(), needed=0) as folder:
            make_vocabulary(texts, folder, args.pieces)
    tokenizer = Tokenizer(target)
    sample = "\n".join(texts)[:_SAMPLE]
    ids = tokenizer.encode(sample)
    report = {
        "folder": str(target),
        "pieces": tokenizer.size,
        "characters": characters,
        "characters_per_token": round(len(sample) / len(ids), 3),
        "unknown": ids.count(tokenizer.unk) / len(ids) if tokenizer.unk is not None else 0.0,
    }
    if args.json:
        sys.stdout.write(json.dumps(report, ensure_ascii=False) + "\n")
        return 0
    said = (
        f"{target}: {tokenizer.size:,} pieces, learned from {characters:,} characters; "
        f"{report['characters_per_token']} characters a token, {report['unknown']:.2%} unknown"
    )
    sys.stdout.write(localized(said) + "\n")
    return 0
