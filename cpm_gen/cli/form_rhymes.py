"""``cpm-gen form rhymes``: the words that may end a line of a text, by the model's probability."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys

from cpm_gen.cli.main import settings
from cpm_gen.cli.notes import show_note
from cpm_gen.cli.write import follows, open_model
from cpm_gen.config.arguments import whole_number
from cpm_gen.config.text_files import read_file
from cpm_gen.errors import ConfigError
from cpm_gen.runtime.rhymes import plan_rhymes
from cpm_gen.runtime.rhymes import rhymes as run
from cpm_gen.text.forms.requested import requested_form


def rhymes(args: argparse.Namespace, form: str) -> int:
    """Print the words of one line of a file, best first. form: a name or the notation."""
    resolved = settings(argparse.Namespace(**{**vars(args), "form": form}))
    style = resolved.text.style if "style" in resolved.sources else "lyric"
    options = dataclasses.replace(resolved.text, style=style, stop=(), keep_lines=())
    requested_form(options)
    whole_number(args.count, "-n", 1, ConfigError)
    text = read_file(args.file, "FILE")
    if follows(resolved):
        return 0
    with open_model(resolved) as engine:
        found = run(engine, plan_rhymes(engine, text, args.line, options, args.prompt), args.count)
    if args.json:
        sys.stdout.write(json.dumps(dataclasses.asdict(found), ensure_ascii=False) + "\n")
    else:
        sys.stdout.write("".join(f"{word.logprob:8.3f}  {word.text}\n" for word in found.words))
    for note in found.notes:
        show_note(note)
    return 0
