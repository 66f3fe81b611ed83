"""``rewrite``: candidates for a passage of a text, best first."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys

from cpm_gen.cli.notes import show_note
from cpm_gen.cli.write import follows, open_model, with_form_file
from cpm_gen.config.resolve import Settings
from cpm_gen.config.text_files import file_text
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.runtime.rewrite import NOT_OPTIONS, SAMPLES, Candidate, Rewrites, plan_rewrite
from cpm_gen.runtime.rewrite import rewrite as run
from cpm_gen.translation import localized

_PLACES = 5  # most places that an error names


def rewrite(args: argparse.Namespace, settings: Settings) -> int:
    """Print the candidates for a selection of a file's text."""
    n = settings.text.n if "n" in settings.sources else SAMPLES
    settings = dataclasses.replace(settings, text=dataclasses.replace(settings.text, n=n, stop=(), keep_lines=()))
    if follows(settings):
        return 0
    for name in NOT_OPTIONS:
        if settings.sources.get(name, "").startswith("--"):
            raise ConfigError(f"--{name.replace('_', '-')} is not for a rewrite; leave it out")
    settings = with_form_file(settings, args)
    text = file_text(args.file)
    start, end = _selection(args, text)
    with open_model(settings) as engine:
        plan = plan_rewrite(engine, text, start, end, settings.sampling, settings.text)
        found = run(engine, plan)
    if args.json:
        sys.stdout.write(json.dumps(dataclasses.asdict(found), ensure_ascii=False) + "\n")
    else:
        sys.stdout.write(_table(found))
    missing = n - len(found.candidates)
    if missing:
        show_note(f"only {len(found.candidates)} of {found.drawn} samples differ and fit the selection")
    for note in found.notes:
        show_note(note)
    sys.stderr.write(localized(f"seed {found.seed}") + "\n")
    return 0


def _selection(args: argparse.Namespace, text: str) -> tuple[int, int]:
    """The selected characters, by --select or --find."""
    if (args.select is None) == (args.find is None):
        raise ConfigError("say what to rewrite: --select FROM:TO (characters from 0 on), or --find TEXT; one of them")
    if args.select is not None:
        found = re.fullmatch(r"(\d{0,18}):(\d{0,18})", args.select)
        if not found:
            raise ConfigError(f"--select must be FROM:TO, two numbers of characters such as 10:25, not {args.select!r}")
        return int(found[1] or 0), int(found[2] or len(text))
    if not args.find:
        raise ConfigError("--find: the text is empty; to insert a sentence, use --select with twice the same number")
    places = [m.start() for m in re.finditer(f"(?={re.escape(args.find)})", text)]
    if not places:
        raise InputError(f"--find: the text does not hold {args.find!r}")
    if len(places) > 1:
        shown = ", ".join(f"{at}:{at + len(args.find)}" for at in places[:_PLACES])
        shown += ", …" if len(places) > _PLACES else ""
        raise InputError(f"--find: the text holds it {len(places)} times; choose one by --select {shown}")
    return places[0], places[0] + len(args.find)


def _table(found: Rewrites) -> str:
    lines = [localized("        own   right  text")]
    if found.selection is not None:
        lines.append(_row(localized("now"), found.selection))
    lines += [_row(str(place), candidate) for place, candidate in enumerate(found.candidates, start=1)]
    return "\n".join(lines) + "\n"


def _row(name: str, candidate: Candidate) -> str:
    right = "      –" if candidate.right is None else f"{candidate.right:7.3f}"
    return f"{name:>3} {candidate.own:7.3f} {right}  " + candidate.text.replace("\n", "\n" + " " * 21)
