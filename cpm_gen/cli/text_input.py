"""Read the command line's prompts: from an argument, a flag, a file or standard input."""

from __future__ import annotations

import argparse
import os
import sys

from cpm_gen.config.text_files import decode_text, file_text
from cpm_gen.errors import ConfigError


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


def refuse_prompt(args: argparse.Namespace) -> None:
    """Raise ConfigError if a prompt is given beside --unconditional. Standard input is not read."""
    if given(args):
        raise ConfigError("--unconditional writes without a prompt; leave the prompt out, or the flag")
