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


def prompt_or_nothing(args: argparse.Namespace) -> str | None:
    """:func:`prompt` of a text that needs none: an empty argument and a pipe without text are none, too."""
    if args.words == "" and len(given(args)) == 1:
        return None
    text = prompt(args)
    return text if given(args) or (text and text.strip()) else None


def file_text(name: str, what: str = "FILE") -> str:
    """:func:`read_file` without its final newline."""
    return _without_final_newline(read_file(name, what))


def read_file(name: str, what: str) -> str:
    """A UTF-8 text file, or standard input for ``-``. what: the argument or flag, for errors. Raises InputError."""
    if not name:
        raise InputError(f"{what}: the file's name is empty")
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder; {what} takes a text file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"{name}: {getattr(error, 'strerror', None) or error}") from None
    return decode_text(content, "standard input" if name == "-" else name)


def refuse_prompt(args: argparse.Namespace) -> None:
    """Raise ConfigError if a prompt is given beside --unconditional. Standard input is not read."""
    if given(args):
        raise ConfigError("--unconditional writes without a prompt; leave the prompt out, or the flag")


def _without_final_newline(text: str) -> str:
    """Editors and ``echo`` end a file with a newline that is not meant; a second one is."""
    return text.removesuffix("\n")
