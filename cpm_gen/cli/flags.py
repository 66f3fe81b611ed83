"""The flags of each command."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Callable

from cpm_gen.cli.measuring_flags import choose_flags, eval_flags, eval_window_flags
from cpm_gen.cli.setting_flags import (
    MODEL_FLAGS,
    SERVE_FLAGS,
    WRITE_FLAGS,
    common_flags,
    setting_flag,
    settings_flags,
)
from cpm_gen.config.finetune_options import FinetuneOptions
from cpm_gen.config.options import FORM_SETTINGS, Dtype, ModelOptions, SamplingParams
from cpm_gen.config.resolve import FIELDS


def write_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen lyric``, ``novel`` and ``generate``."""
    parser.add_argument("words", metavar="PROMPT", nargs="?", help="the text to continue; else --prompt-file or stdin")
    parser.add_argument("--prompt", metavar="TEXT", help="the same, as a flag")
    parser.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a UTF-8 file; - is standard input")
    parser.add_argument("--form-file", metavar="FILE", help="read the form from a UTF-8 file; - is standard input")
    parser.add_argument(
        "--output", metavar="FILE", help="write the text to FILE token by token, instead of standard output, which - is"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per sample")
    parser.add_argument(
        "--profile", action="store_true", help="at the end, print the time of a decode step by its parts"
    )
    common_flags(parser)
    settings_flags(parser, WRITE_FLAGS)


def batch_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen batch``."""
    parser.add_argument(
        "input", metavar="IN", help='JSON lines, each with a "prompt", an "id" and settings; - is standard input'
    )
    parser.add_argument("output", metavar="OUT", help="file of the results; what it holds is not written again")
    parser.add_argument("--in-order", action="store_true", help="results in the order of the lines, not as they come")
    parser.add_argument(
        "--replicas",
        metavar="N",
        type=int,
        help="processes with a model each: one for each GPU, or that share the cores of the CPU (default: 1; with --ray as many as "
        "the cluster has room for)",
    )
    parser.add_argument(
        "--ray", action="store_true", help="write on a Ray cluster: that of RAY_ADDRESS, or one that is started here"
    )
    common_flags(parser)
    settings_flags(parser, WRITE_FLAGS)


def form_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen form``."""
    actions = parser.add_subparsers(dest="action", metavar="list|show|check|rhymes|learn", required=True)
    listed = actions.add_parser("list", help="the names of all forms", allow_abbrev=False)
    show = actions.add_parser("show", help="the pattern and the notation of a form", allow_abbrev=False)
    check = actions.add_parser("check", help="the faults of a text", allow_abbrev=False)
    rhymes = actions.add_parser(
        "rhymes", help="the words that may end a line of a text, the likeliest first", allow_abbrev=False
    )
    for action in (show, check, rhymes):
        action.add_argument("form", metavar="FORM", help="a name such as 七绝 or '浣溪沙 2', notation, or a file of it")
    for action in (check, rhymes):
        action.add_argument("file", metavar="FILE", help="a UTF-8 text; - is standard input")
    rhymes.add_argument("--line", metavar="N", type=int, required=True, help="line of the text, from 1 on")
    rhymes.add_argument("-n", "--n", metavar="N", type=int, default=20, dest="count", help="words (default: 20)")
    rhymes.add_argument("--prompt", metavar="TEXT", help="what stands before the text")
    section = rhymes.add_argument_group("form")
    for name in FORM_SETTINGS[1:]:
        section.add_argument(f"--{name.replace('_', '-')}", **setting_flag(name, FIELDS[name]))
    style = {"help": f"{FIELDS['style'].description} (default: lyric)"}
    section.add_argument("--style", **setting_flag("style", FIELDS["style"]) | style)
    learn = actions.add_parser(
        "learn", help="make the table of bigrams that lines in a form look ahead by", allow_abbrev=False
    )
    learn.add_argument(
        "texts", metavar="TEXT", nargs="*", help="UTF-8 files or folders of .txt files; - is standard input"
    )
    learn.add_argument("--from-model", action="store_true", help="learn from what the model predicts, instead of texts")
    learn.add_argument("--tokens", metavar="N", type=int, default=100_000, help="of --from-model (default: 100000)")
    learn.add_argument("--output", metavar="FILE", help="file to write (default: form_bigrams.xz beside the model)")
    for action in (rhymes, learn):
        common_flags(action)
        settings_flags(action, MODEL_FLAGS)
    for action in (listed, show, check, rhymes):
        action.add_argument("--json", action="store_true", help="as one JSON object")


def rewrite_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen rewrite``."""
    parser.add_argument("file", metavar="FILE", help="UTF-8 file of the text; - is standard input")
    parser.add_argument(
        "--select", metavar="FROM:TO", help="characters to rewrite, from 0 on, without the last; twice the same: insert"
    )
    parser.add_argument("--find", metavar="TEXT", help="the passage to rewrite, where the text holds it once")
    parser.add_argument("--form-file", metavar="FILE", help="read the form from a UTF-8 file; - is standard input")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    common_flags(parser)
    settings_flags(parser, (ModelOptions, SamplingParams))
    section = parser.add_argument_group("candidates")
    for name, flags, more in (
        ("n", ("-n", "--n"), {"metavar": "N", "help": "candidates (default: 8)"}),
        ("style", ("--style",), {}),
        ("seed", ("--seed",), {"help": "same seed, same candidates (default: drawn, and reported)"}),
        *((name, (f"--{name.replace('_', '-')}",), {}) for name in FORM_SETTINGS),
    ):
        section.add_argument(*flags, **setting_flag(name, FIELDS[name]) | more)


def _heads_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--heads", metavar="N", default=argparse.SUPPRESS, help=FIELDS["heads"].description)


def inspect_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen inspect``."""
    parser.set_defaults(config=[])
    parser.add_argument("dir", metavar="DIR", nargs="?", help="checkpoint folder (default: the embedded model)")
    _heads_flag(parser)
    parser.add_argument("--verify", action="store_true", help="read all weights and compare them with their checksums")
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def doctor_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen doctor``."""
    parser.set_defaults(config=[])
    for name in ("model", "tokenizer", "heads"):
        parser.add_argument(f"--{name}", **setting_flag(name, FIELDS[name]))
    parser.add_argument("--json", action="store_true", help="as one JSON object")


def reshard_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen reshard``."""
    parser.set_defaults(config=[])
    parser.add_argument("dir", metavar="DIR", help="checkpoint folder")
    parser.add_argument("degree", metavar="MPSIZE", type=int, help="ranks to write it for")
    parser.add_argument("--output", metavar="DIR", help="folder to write (default: DIR_MPn beside DIR)")
    _heads_flag(parser)
    parser.add_argument("--force", action="store_true", help="replace the target if it exists, with all its contents")


def _leave_flags(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(config=[])
    for name in ("heads", "tokenizer"):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, help=FIELDS[name].description)
    parser.add_argument("--force", action="store_true", help="replace the target if it exists")


def convert_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen convert``."""
    parser.add_argument("source", metavar="SRC", help="model: a folder of any kind that --model takes, or 'embedded'")
    parser.add_argument("target", metavar="DST", help="folder to write")
    parser.add_argument(
        "--to",
        choices=("hf", "shards", "safetensors"),
        required=True,
        help="hf: a Hugging Face folder; shards: mp_rank files as CPM-1 has them; safetensors: such shards in safetensors",
    )
    parser.add_argument(
        "--tensor-parallel", type=int, metavar="N", dest="degree", help="ranks that shards are for (default: 1)"
    )
    parser.add_argument(
        "--dtype",
        choices=typing.get_args(Dtype),
        dest="to_dtype",
        help="number format to write (default: that of the source)",
    )
    _leave_flags(parser)


def export_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen export``."""
    parser.add_argument("source", metavar="MODEL", help="model: a folder of any kind that --model takes, or 'embedded'")
    parser.add_argument("target", metavar="OUT", help="file to write")
    parser.add_argument("--format", choices=("onnx", "gguf"), required=True, help="kind of file")
    parser.add_argument(
        "--dtype",
        choices=typing.get_args(Dtype),
        dest="to_dtype",
        help="number format of the matrices (default: float32 in ONNX, the source's in GGUF)",
    )
    parser.add_argument("--past", action="store_true", help="ONNX: with keys and values as inputs and outputs")
    parser.add_argument(
        "--batch", type=int, metavar="N", dest="rows", help="ONNX: with --length: a file of fixed shapes"
    )
    parser.add_argument(
        "--length", type=int, metavar="N", dest="columns", help="ONNX: tokens of each row of a file of fixed shapes"
    )
    parser.add_argument(
        "--ids-only", action="store_true", help="GGUF: without a vocabulary; the program gives token ids"
    )
    _leave_flags(parser)


def _pipe_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", metavar="TEXT", nargs="?", help="a text; else --prompt, --prompt-file or standard input"
    )
    parser.add_argument("--prompt", metavar="TEXT", help="the same, as a flag")
    parser.add_argument("--prompt-file", metavar="FILE", help="read it from a UTF-8 file; - is standard input")
    parser.add_argument("--json-lines", action="store_true", help="one JSON object a line, from standard input")


def tokenize_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen tokenize``."""
    _pipe_flags(parser)
    parser.add_argument(
        "--about", action="store_true", help="say what the tokenizer is: kind, ids, tokens that begin and end a text"
    )
    parser.add_argument("--decode", action="store_true", help='the other way round: {"ids": […]} in, {"text": …} out')
    common_flags(parser)
    settings_flags(parser, MODEL_FLAGS)


def score_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen score``."""
    _pipe_flags(parser)
    common_flags(parser)
    settings_flags(parser, MODEL_FLAGS)


def vocabulary_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen vocabulary``."""
    parser.set_defaults(config=[])
    parser.add_argument(
        "texts", metavar="TEXT", nargs="+", help="UTF-8 files, JSON lines with a text each, or folders of them"
    )
    parser.add_argument("--output", metavar="DIR", required=True, help="folder to write")
    parser.add_argument("--pieces", metavar="N", type=int, default=8000, help="of the vocabulary (default: 8000)")
    parser.add_argument("--force", action="store_true", help="replace the target if it exists, with all its contents")
    parser.add_argument("--json", action="store_true", help="report as one JSON object")


def finetune_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen finetune``."""
    parser.set_defaults(config=[])
    parser.add_argument(
        "--data",
        metavar="PATH",
        action="append",
        help="texts to train on: a UTF-8 file, JSON lines with a text each, a folder of them, or a YAML file that lists several with "
        "their shares; may be repeated",
    )
    parser.add_argument("--output", metavar="DIR", required=True, help="folder to write: checkpoints, then the model")
    style = {"help": f"{FIELDS['style'].description} (default: lyric)"}
    parser.add_argument("--style", **setting_flag("style", FIELDS["style"]) | style)
    seed = {"help": "of the windows and the dropout (default: 0)"}
    parser.add_argument("--seed", **setting_flag("seed", FIELDS["seed"]) | seed)
    for name in ("model", "tokenizer", "heads", "start_token", "end_token"):
        parser.add_argument(f"--{name.replace('_', '-')}", **setting_flag(name, FIELDS[name]))
    parser.add_argument(
        "--records",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="blank lines separate documents in files of text (default: in the lyric style)",
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run that --output holds")
    parser.add_argument("--force", action="store_true", help="replace the target if it exists, with all its contents")
    parser.add_argument("--json", action="store_true", help="at the end, report as one JSON object")
    settings_flags(parser, (FinetuneOptions,))


def serve_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen serve``."""
    parser.add_argument(
        "--new-key", metavar="NAME", help="print a new API key and its line for the --keys file, and end"
    )
    common_flags(parser)
    settings_flags(parser, SERVE_FLAGS)


def download_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen download``."""
    parser.add_argument(
        "name", metavar="NAME|URL", nargs="?", help="a model of the list, owner/name of the Hugging Face Hub, or a URL"
    )
    parser.add_argument(
        "--to", metavar="DIR", help="folder to write (default: the model's name; for a URL this folder)"
    )
    parser.add_argument(
        "--from", metavar="URL", dest="mirror", help="an address that has the files of a model of the list"
    )
    parser.add_argument("--sha256", metavar="HEX", help="what the file of a URL must have")


FLAGS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "lyric": write_flags,
    "novel": write_flags,
    "generate": write_flags,
    "batch": batch_flags,
    "form": form_flags,
    "rewrite": rewrite_flags,
    "serve": serve_flags,
    "doctor": doctor_flags,
    "download": download_flags,
    "inspect": inspect_flags,
    "reshard": reshard_flags,
    "convert": convert_flags,
    "export": export_flags,
    "tokenize": tokenize_flags,
    "score": score_flags,
    "eval": eval_flags,
    "eval-window": eval_window_flags,
    "choose": choose_flags,
    "finetune": finetune_flags,
    "vocabulary": vocabulary_flags,
}
