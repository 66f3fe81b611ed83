"""Read the command line's texts. Input that is not UTF-8 is an error that names the byte."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from cpm_gen.errors import ConfigError, InputError


def decode(content: bytes, where: str) -> str:
    """Decode strict UTF-8 without a leading byte order mark; raises InputError."""
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start}; save the text as UTF-8") from None


def prompt(args: argparse.Namespace) -> str | None:
    """The prompt from the argument, the flag, the file or a piped standard input; None where nothing was given."""
    given = [name for name in ("words", "prompt", "prompt_file") if getattr(args, name) is not None]
    if len(given) > 1:
        raise ConfigError("give the prompt once: as an argument, with --prompt or with --prompt-file")
    if args.prompt_file is not None and args.prompt_file != "-":
        path = Path(args.prompt_file)
        try:
            return decode(path.read_bytes(), str(path))
        except IsADirectoryError:
            raise InputError(f"{path}: is a folder; --prompt-file takes a text file") from None
        except OSError as error:
            raise InputError(f"{path}: {error.strerror or error}") from None
    if args.prompt_file is None and given:
        return decode(os.fsencode(getattr(args, given[0])), "the prompt")
    if args.prompt_file == "-" or not sys.stdin.isatty():
        return decode(sys.stdin.buffer.read(), "standard input")
    return None
