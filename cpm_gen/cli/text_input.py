"""Read the command line's texts. A byte order mark and one final newline of a file or a pipe are not part of them; CRLF is LF, as CR is."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cpm_gen.config.text_files import decode_text
from cpm_gen.errors import ConfigError, InputError


def given(args: argparse.Namespace) -> list[str]:
    """Which of the argument and the flags for a text are given."""
    return [name for name in ("words", "prompt", "prompt_file") if getattr(args, name) is not None]


def prompt(args: argparse.Namespace) -> str | None:
    """The prompt from the argument, the flag, the file or a piped standard input; None where nothing was given."""
    names = given(args)
    if len(names) > 1:
        raise ConfigError("give the prompt once: as an argument, with --prompt or with --prompt-file")
    if args.prompt_file is not None and args.prompt_file != "-":
        return file_text(args.prompt_file, "--prompt-file")
    if args.prompt_file is None and names:
        return decode_text(os.fsencode(getattr(args, names[0])), "the prompt")
    if args.prompt_file == "-" or not sys.stdin.isatty():
        return file_text("-")
    return None


def file_text(name: str, what: str = "FILE") -> str:
    """The text of a file, or of standard input for ``-``. what: the argument, for errors. Raises InputError."""
    if name == "-":
        return _without_final_newline(decode_text(sys.stdin.buffer.read(), "standard input"))
    if not name:
        raise InputError(f"{what}: the file's name is empty")
    path = Path(name)
    try:
        return _without_final_newline(decode_text(path.read_bytes(), str(path)))
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; {what} takes a text file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def refuse_prompt(args: argparse.Namespace) -> None:
    """Raise ConfigError if a prompt is given beside --unconditional. Standard input is not read."""
    if given(args):
        raise ConfigError("--unconditional writes without a prompt; leave the prompt out, or the flag")


def _without_final_newline(text: str) -> str:
    """Editors and ``echo`` end a file with a newline that is not meant; a second one is."""
    return text.removesuffix("\n")
