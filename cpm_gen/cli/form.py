"""``cpm-gen form``: list forms, show one, check a text, find rhyme words."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from cpm_gen.config.text_files import read_file
from cpm_gen.errors import InputError
from cpm_gen.text.forms import check as checks
from cpm_gen.text.forms.aliases import ALIASES
from cpm_gen.text.forms.form import Form
from cpm_gen.text.forms.named import LINES, names
from cpm_gen.text.forms.requested import read_form
from cpm_gen.translation import localized


def read_form_file(name: str, what: str = "--form-file") -> str:
    """The notation in the file of ``--form-file``; raises InputError. what: the argument that names the file."""
    text = read_file(name, what)
    if not text.strip():
        raise InputError(f"{name}: the file is empty; write a form's name or its lines into it")
    return text


def is_file(form: str) -> bool:
    """Whether a form's name or notation is the name of a file."""
    return bool(form) and "\n" not in form and len(form) < 256 and Path(form).is_file()


def form_text(name: str) -> str:
    """The name or the notation of a form that is given by name, in notation, or as a file. Raises InputError."""
    if is_file(name) or name.endswith(".txt"):
        return read_form_file(name, "FORM")
    if not name.strip():
        raise InputError("the form is empty; give a name such as 七绝, or a file")
    return name


def form(args: argparse.Namespace) -> int:
    """Run ``list``, ``show``, ``check``, ``rhymes`` or ``learn``; 1 if a checked text has faults."""
    if args.action == "list":
        return _list(as_json=args.json)
    if args.action == "show":
        return _show(read_form(form_text(args.form)), as_json=args.json)
    if args.action == "learn":
        from cpm_gen.cli.form_learn import learn

        return learn(args)
    if args.action == "rhymes":
        from cpm_gen.cli.form_rhymes import rhymes

        return rhymes(args, form_text(args.form))
    faults = checks.check(read_form(form_text(args.form)), read_file(args.file, "FILE"))
    if args.json:
        sys.stdout.write(json.dumps({"faults": [vars(f) for f in faults]}, ensure_ascii=False) + "\n")
    else:
        for fault in faults:
            place = f"line {fault.line}" + (f", column {fault.column}" if fault.column else "")
            sys.stdout.write(localized(f"{place}: {fault.message}") + "\n")
        if not faults:
            sys.stdout.write(localized("the text keeps to the form") + "\n")
    return 1 if faults else 0


def _list(*, as_json: bool) -> int:
    if as_json:
        found = [
            {"name": n, "variants": count} if count else {"name": n, "lines": LINES} for n, count in names().items()
        ]
        sys.stdout.write(json.dumps({"forms": found, "aliases": ALIASES}, ensure_ascii=False) + "\n")
        return 0
    least, most = LINES
    for name, count in names().items():
        sys.stdout.write(f"{name}\t{count or localized(f'{least} to {most} lines')}\n")
    for name, title in ALIASES.items():
        sys.stdout.write(f"{name}\t= {title}\n")
    return 0


def _show(form: Form, *, as_json: bool) -> int:
    if as_json:
        sys.stdout.write(json.dumps({"form": str(form), "pattern": form.pattern()}, ensure_ascii=False) + "\n")
        return 0
    sys.stdout.write("".join(f"{line}\n" for line in form.pattern()) + "\n" + str(form))
    return 0
