"""The command line: a dictionary of commands.

Exit status: 0; 2 for a user's mistake; 130 on Ctrl-C, 143 on SIGTERM; 141 when the reader of a pipe closed it; 1 for any other failure.
"""

from __future__ import annotations

import argparse
import errno
import gc
import io
import os
import signal
import sys
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NoReturn

from cpm_gen.cli import progress
from cpm_gen.cli.parser import SHELLS, Parser, PrintCompletion
from cpm_gen.errors import ConfigError, CpmGenError, InputError, out_of_memory
from cpm_gen.translation import localized

if TYPE_CHECKING:
    from cpm_gen.config.resolve import Settings


def _write(args: argparse.Namespace) -> int:
    from cpm_gen.cli import write
    from cpm_gen.config.options import check_lengths
    from cpm_gen.text.stories.requested import requested_story

    resolved = settings(args)
    output = None if args.output == "-" else args.output  # standard output
    candidates = resolved.text.candidates
    if write.follows(resolved, candidates):
        return 0
    resolved = write.with_form_file(resolved, args)
    requested_story(resolved.text)
    check_lengths(resolved.sampling, resolved.text)
    resolved, text = write.with_prompt(resolved, args)
    interactive = text is None and not resolved.text.unconditional
    if interactive and (args.output is not None or args.json or not sys.stdout.isatty()):
        raise InputError("no prompt: give it as an argument, with --prompt, --prompt-file or on standard input")
    if text is not None and not text.strip():
        raise InputError("the prompt is empty; give the words that the text should begin with")
    write.check_output(output)
    with write.open_model(resolved, candidates, several=interactive) as llm:
        if not interactive:
            return write.write(llm, text, resolved, as_json=args.json, output=output, profiled=args.profile)
        from cpm_gen.cli.interactive import interact

        return interact(llm, resolved)


def _batch(args: argparse.Namespace) -> int:
    try:
        from cpm_gen.cli.batch import batch
    except ImportError as error:
        from cpm_gen.cli.parser import install_hint

        raise install_hint(error.name, "serve", "cpm-gen batch") from None
    return batch(args, settings(args))


def _rewrite(args: argparse.Namespace) -> int:
    from cpm_gen.cli.rewrite import rewrite

    return rewrite(args, settings(args))


def _tokenize(args: argparse.Namespace) -> int:
    from cpm_gen.cli.tools import tokenize

    return tokenize(args, settings(args))


def _vocabulary(args: argparse.Namespace) -> int:
    from cpm_gen.cli.vocabulary import vocabulary

    return vocabulary(args)


def _finetune(args: argparse.Namespace) -> int:
    from cpm_gen.cli.finetune import finetune

    return finetune(args)


def _score(args: argparse.Namespace) -> int:
    from cpm_gen.cli.tools import score

    return score(args, settings(args))


def _eval(args: argparse.Namespace) -> int:
    from cpm_gen.cli.evaluate import evaluate

    return evaluate(args, settings(args))


def _eval_window(args: argparse.Namespace) -> int:
    from cpm_gen.cli.evaluate_windows import evaluate_windows

    return evaluate_windows(args, settings(args))


def _choose(args: argparse.Namespace) -> int:
    from cpm_gen.cli.choose import choose

    return choose(args, settings(args))


def _form(args: argparse.Namespace) -> int:
    from cpm_gen.cli.form import form

    return form(args)


def _serve(args: argparse.Namespace) -> int:
    from cpm_gen.cli.serve import new_key, serve

    return serve(settings(args)) if args.new_key is None else new_key(args.new_key)


def _inspect(args: argparse.Namespace) -> int:
    from cpm_gen.cli.tools import inspect

    return inspect(args, settings(args))


def _reshard(args: argparse.Namespace) -> int:
    from cpm_gen.cli.tools import reshard

    return reshard(args, settings(args))


def _convert(args: argparse.Namespace) -> int:
    from cpm_gen.cli.leave import convert

    return convert(args, settings(args))


def _export(args: argparse.Namespace) -> int:
    from cpm_gen.cli.leave import export

    return export(args, settings(args))


def _doctor(args: argparse.Namespace) -> int:
    from cpm_gen.cli.doctor import doctor

    return doctor(args, settings(args))


def _download(args: argparse.Namespace) -> int:
    from cpm_gen.cli.download import download

    return download(args)


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int], str]] = {  # their flags: cpm_gen.cli.flags
    "lyric": (_write, "write lyrics: lines, in the settings of configs/lyric.yaml"),
    "novel": (_write, "write prose, in the settings of configs/novel.yaml"),
    "generate": (_write, "write with plain defaults; --style says how the prompt is read"),
    "batch": (_batch, "write a text for each line of a file of prompts"),
    "form": (_form, "list forms of verse, show one, or check a text against one"),
    "rewrite": (_rewrite, "candidates for a passage of a text, ranked by how well the text goes on after them"),
    "serve": (_serve, "answer over HTTP: a REST service, OpenAI-compatible too"),
    "doctor": (_doctor, "say what this machine can run, and what to do about what is missing"),
    "download": (_download, "list public models, or download one"),
    "inspect": (_inspect, "say what a checkpoint is and what it needs"),
    "reshard": (_reshard, "write a checkpoint for another number of ranks"),
    "convert": (_convert, "write a model as a Hugging Face folder, or as shards"),
    "export": (_export, "write a model as one file for another program: ONNX or GGUF"),
    "tokenize": (_tokenize, "text to token ids, or back"),
    "score": (_score, "log-probability of each token given those before it"),
    "eval": (_eval, "perplexity of a model on texts, with confidence; or of two models"),
    "eval-window": (_eval_window, "how well a model predicts and writes past its window"),
    "choose": (_choose, "zero-shot choice among labels by likelihood"),
    "finetune": (_finetune, "train a model on your own texts, or a new one"),
    "vocabulary": (_vocabulary, "make a vocabulary from texts, in CPM's convention"),
}
_PRESETS = ("lyric", "novel")


def settings(args: argparse.Namespace) -> Settings:
    """Settings of a command: its preset, --config files, environment, flags."""
    from pathlib import Path

    from cpm_gen.config.files import shipped
    from cpm_gen.config.resolve import FIELDS, resolve

    files = [shipped(f"{args.command}.yaml")] if args.command in _PRESETS else []
    for name in args.config:
        if not name:
            raise ConfigError("--config: the file's name is empty")
        plain = "/" not in name and not Path(name).exists() and not name.endswith(".yaml")
        files.append(shipped(f"{name}.yaml") if plain else Path(name))
    flags = {k: v for k, v in vars(args).items() if k in FIELDS}
    flags = {k: tuple(v) if isinstance(v, list) else v for k, v in flags.items()}
    return resolve(files=files, environment=os.environ, flags=flags)


def print_config(resolved: Settings, *, serve: bool = False) -> None:
    """Print every setting as YAML with its source as a comment; the service's settings only for ``serve``."""
    import json

    from cpm_gen.config.fields import declared, none_word
    from cpm_gen.config.resolve import FIELDS
    from cpm_gen.config.serve_options import ServeOptions

    for name, value, source in resolved.items():
        if name in declared(ServeOptions) and not serve:
            continue
        if value is None:
            value = none_word(FIELDS[name])
        line = f"{name}: {json.dumps(value, ensure_ascii=False)}"  # JSON is YAML
        sys.stdout.write(f"{line:<40}  # {source}\n")


def build_parser(commands: Collection[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The command line. Only ``commands`` get their flags: these need the settings, whose import takes longer than the rest."""
    from cpm_gen import __version__

    parser = Parser(prog="cpm-gen", description="Chinese lyrics and novels of any length with CPM-1.")
    parser.add_argument("--version", action="version", version=f"cpm-gen {__version__}")
    parser.add_argument(
        "--print-completion", choices=SHELLS, action=PrintCompletion, help="print completions for a shell, and end"
    )
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher's
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, text) in COMMANDS.items():
        command = parsers.add_parser(name, help=text, description=text, allow_abbrev=False)
        if name in commands:
            from cpm_gen.cli.flags import FLAGS

            FLAGS[name](command)
    return parser


class _ClosedOutput(io.TextIOBase):
    """Standard output where the caller closed it: a text for it must not be lost with status 0."""

    def write(self, text: str) -> NoReturn:
        """Raise OSError."""
        raise OSError(errno.EBADF, "is closed, so the text cannot be written", "standard output")


def _standard_streams() -> None:
    """Use UTF-8 in every locale; replace a stream that the caller closed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None and name == "stdout":
            sys.stdout = _ClosedOutput()
        elif stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: PTH123, SIM115
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _terminate(number: int, _: object) -> NoReturn:
    """Exit with clean-up on a signal. SIGUSR1 is sent by this process after a rank died."""
    raise SystemExit(1 if number == getattr(signal, "SIGUSR1", None) else 128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    # importing torch makes a quarter of a million objects that stay; Python's default looks for garbage among them 600 times
    gc.set_threshold(50_000)
    _standard_streams()
    words = sys.argv[1:] if argv is None else argv
    if not words:
        build_parser(()).print_help()
        return 0
    try:
        args = build_parser([name for name in COMMANDS if name in words]).parse_args(words)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 2
    try:
        for number in progress.signals("SIGTERM", "SIGHUP", "SIGUSR1"):
            signal.signal(number, _terminate)
        if args.command == "serve" and isinstance(sys.stdout, _ClosedOutput):  # the address is in the log, too
            sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        if getattr(args, "print_config", False):
            print_config(settings(args), serve=args.command == "serve")
            return 0
        return COMMANDS[args.command][0](args)
    except CpmGenError as error:
        sys.stderr.write(f"cpm-gen: {localized(str(error))}\n")
        return error.exit_status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output closed the pipe
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        return 141
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        said = localized("not enough memory; try --dtype bfloat16, a smaller --batch or --tensor-parallel")
        sys.stderr.write(f"cpm-gen: {said}\n")
        return 1
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        sys.stderr.write("cpm-gen: " + what + localized(error.strerror or str(error)) + "\n")
        return 2
