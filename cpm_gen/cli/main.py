"""The command line: a dictionary of commands, flags read off the settings' dataclasses.

Exit status: 0; 2 for a user's mistake; 130 on Ctrl-C, 143 on SIGTERM; 141 when the reader of a pipe left; 1 when something else
broke.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pydantic.fields import FieldInfo

from cpm_gen.cli import progress
from cpm_gen.config.fields import alternatives, choices, declared, item_type, none_word
from cpm_gen.config.files import shipped
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.config.resolve import FIELDS, Settings, resolve
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.errors import CpmGenError, InputError

MODEL_FLAGS = (ModelOptions,)
WRITE_FLAGS = (ModelOptions, SamplingParams, TextOptions)
SERVE_FLAGS = (ServeOptions, ModelOptions)


class _Parser(argparse.ArgumentParser):
    """One line instead of a usage page when the flags are wrong."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _settings_flags(parser: argparse.ArgumentParser, groups: Sequence[type[Any]]) -> None:
    for group in groups:
        section = parser.add_argument_group((group.__doc__ or "").split(". ")[0].split(".\n")[0].rstrip(".").lower())
        for name, field in declared(group).items():
            section.add_argument("--" + name.replace("_", "-"), **_flag(name, field))


def _flag(name: str, field: FieldInfo) -> dict[str, Any]:
    """The arguments of ``add_argument`` for a setting."""
    word = none_word(field)
    text = f"{field.description}; {word!r} goes on until stopped" if word else str(field.description)
    default = "" if field.default in (None, (), False) else f" (default: {field.default})"
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": (text + default).replace("%", "%%")}
    kind = alternatives(field.annotation)[0]
    if kind is bool:
        return options | {"action": argparse.BooleanOptionalAction}
    if item_type(kind) is str:
        metavar = "TEXT" if name == "stop" else name.rsplit("_", 1)[-1].upper()
        return options | {"action": "append", "metavar": metavar}
    words = choices(field)
    return options | {"metavar": "|".join(words) if words else name.rsplit("_", 1)[-1].upper()}


def _common_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", metavar="FILE", action="append", default=[], help="settings in YAML; may be repeated"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="show every setting and where it came from, and end"
    )


def _write_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", metavar="PROMPT", nargs="?", help="the text to go on from; else --prompt-file or stdin"
    )
    parser.add_argument("--prompt", metavar="TEXT", help="the same, as a flag")
    parser.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a UTF-8 file; - is standard input")
    parser.add_argument(
        "--output", metavar="FILE", help="write the text to FILE as it is made, instead of standard output"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per sample")
    parser.add_argument("--profile", action="store_true", help="at the end, say where the time of a step goes")
    _common_flags(parser)
    _settings_flags(parser, WRITE_FLAGS)


def _heads_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--heads", metavar="N", default=argparse.SUPPRESS, help=FIELDS["heads"].description)


def _inspect_flags(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(config=[])
    parser.add_argument("dir", metavar="DIR", nargs="?", help="checkpoint folder (default: the embedded model)")
    _heads_flag(parser)
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def _reshard_flags(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(config=[])
    parser.add_argument("dir", metavar="DIR", help="checkpoint folder")
    parser.add_argument("degree", metavar="MPSIZE", type=int, help="ranks to write it for")
    parser.add_argument("--output", metavar="DIR", help="folder to write (default: DIR_MPn beside DIR)")
    _heads_flag(parser)
    parser.add_argument("--force", action="store_true", help="replace the target if it exists, whatever it holds")


def _pipe_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", metavar="TEXT", nargs="?", help="a text; else --prompt, --prompt-file or standard input"
    )
    parser.add_argument("--prompt", metavar="TEXT", help="the same, as a flag")
    parser.add_argument("--prompt-file", metavar="FILE", help="read it from a UTF-8 file; - is standard input")
    parser.add_argument("--json-lines", action="store_true", help="one JSON object a line, from standard input")


def _tokenize_flags(parser: argparse.ArgumentParser) -> None:
    _pipe_flags(parser)
    parser.add_argument("--decode", action="store_true", help='the other way round: {"ids": […]} in, {"text": …} out')
    _common_flags(parser)
    _settings_flags(parser, MODEL_FLAGS)


def _score_flags(parser: argparse.ArgumentParser) -> None:
    _pipe_flags(parser)
    _common_flags(parser)
    _settings_flags(parser, MODEL_FLAGS)


def _serve_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--new-key", metavar="NAME", help="print a new API key and its line for the --keys file, and end"
    )
    _common_flags(parser)
    _settings_flags(parser, SERVE_FLAGS)


def _write(args: argparse.Namespace) -> int:
    from cpm_gen.cli import text_input, write

    resolved = settings(args)
    if write.follows(resolved):
        return 0
    text = text_input.prompt(args)
    if text is None and (args.output or args.json or not sys.stdout.isatty()):
        raise InputError("no prompt: give it as an argument, with --prompt, --prompt-file or on standard input")
    if text is not None and not text.strip():
        raise InputError("the prompt is empty; give the words that the text should begin with")
    write.check_output(args.output)
    with write.open_model(resolved) as llm:
        if text is not None:
            return write.write(llm, text, resolved, as_json=args.json, output=args.output, profiled=args.profile)
        from cpm_gen.cli.interactive import interact

        return interact(llm, resolved)


def _tokenize(args: argparse.Namespace) -> int:
    from cpm_gen.cli.tools import tokenize

    return tokenize(args, settings(args))


def _score(args: argparse.Namespace) -> int:
    from cpm_gen.cli.tools import score

    return score(args, settings(args))


def _serve(args: argparse.Namespace) -> int:
    from cpm_gen.cli.serve import new_key, serve

    return serve(settings(args)) if args.new_key is None else new_key(args.new_key)


def _inspect(args: argparse.Namespace) -> int:
    from cpm_gen.cli.tools import inspect

    return inspect(args, settings(args))


def _reshard(args: argparse.Namespace) -> int:
    from cpm_gen.cli.tools import reshard

    return reshard(args, settings(args))


Flags = Callable[[argparse.ArgumentParser], None]
COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], Flags, str]] = {
    "lyric": (_write, _write_flags, "write lyrics: lines, in the settings of configs/lyric.yaml"),
    "novel": (_write, _write_flags, "write prose, in the settings of configs/novel.yaml"),
    "generate": (_write, _write_flags, "write with plain defaults; --style says how the prompt is read"),
    "serve": (_serve, _serve_flags, "answer over HTTP: a REST service, OpenAI-compatible too"),
    "inspect": (_inspect, _inspect_flags, "say what a checkpoint is and what it needs"),
    "reshard": (_reshard, _reshard_flags, "write a checkpoint anew for another number of ranks"),
    "tokenize": (_tokenize, _tokenize_flags, "text to token ids, or back"),
    "score": (_score, _score_flags, "log-probability of each token given those before it"),
}
_PRESETS = ("lyric", "novel")


def settings(args: argparse.Namespace) -> Settings:
    """Settings of a command: its preset, --config files, environment, flags."""
    from pathlib import Path

    files = [shipped(f"{args.command}.yaml")] if args.command in _PRESETS else []
    for name in args.config:
        plain = "/" not in name and not Path(name).exists() and not name.endswith(".yaml")
        files.append(shipped(f"{name}.yaml") if plain else Path(name))
    flags = {k: v for k, v in vars(args).items() if k in FIELDS}
    flags = {k: tuple(v) if isinstance(v, list) else v for k, v in flags.items()}
    return resolve(files=files, environment=os.environ, flags=flags)


def print_config(resolved: Settings, *, serve: bool = False) -> None:
    """Every setting as YAML, with its source as a comment; those of the service where it is what is asked about."""
    import json

    for name, value, source in resolved.items():
        if name in declared(ServeOptions) and not serve:
            continue
        if value is None:
            value = none_word(FIELDS[name])
        line = f"{name}: {json.dumps(value, ensure_ascii=False)}"  # JSON is YAML
        sys.stdout.write(f"{line:<40}  # {source}\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from cpm_gen import __version__

    parser = _Parser(prog="cpm-gen", description="Chinese lyrics and novels of any length with CPM-1.")
    parser.add_argument("--version", action="version", version=f"cpm-gen {__version__}")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher's
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, add_flags, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        add_flags(command)
    return parser


def _standard_streams() -> None:
    """UTF-8 whatever the locale; a stream that the caller closed reads as empty and swallows what is written."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _terminate(number: int, _: object) -> NoReturn:
    """A polite signal to end: leave by way of everybody's clean-up. SIGUSR1 is our own, after a rank died."""
    raise SystemExit(1 if number == getattr(signal, "SIGUSR1", None) else 128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    _standard_streams()
    try:
        args = build_parser().parse_args(argv)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    try:
        for number in progress.signals("SIGTERM", "SIGHUP", "SIGUSR1"):
            signal.signal(number, _terminate)
        if getattr(args, "print_config", False):
            print_config(settings(args), serve=args.command == "serve")
            return 0
        return COMMANDS[args.command][0](args)
    except CpmGenError as error:
        sys.stderr.write(f"cpm-gen: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read our output has left
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        return 141
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, MemoryError) and not any(
            w in text for w in ("out of memory", "can't allocate memory")
        ):
            raise
        sys.stderr.write("cpm-gen: not enough memory; try --dtype bfloat16, a smaller --batch or --tensor-parallel\n")
        return 1
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"cpm-gen: {what}{error.strerror or error}\n")
        return 2
