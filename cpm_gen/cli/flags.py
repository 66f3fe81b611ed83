"""The flags of each command, those of settings derived from their declarations."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from pydantic.fields import FieldInfo

from cpm_gen.config.fields import alternatives, choices, declared, item_type, none_word
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.config.resolve import FIELDS
from cpm_gen.config.serve_options import ServeOptions

MODEL_FLAGS = (ModelOptions,)
WRITE_FLAGS = (ModelOptions, SamplingParams, TextOptions)
SERVE_FLAGS = (ServeOptions, ModelOptions)
_OTHER_FLAGS = {"kernels": ("--backend",)}  # further names of a setting's flag


def _settings_flags(parser: argparse.ArgumentParser, groups: Sequence[type[Any]]) -> None:
    for group in groups:
        section = parser.add_argument_group((group.__doc__ or "").split(". ")[0].split(".\n")[0].rstrip(".").lower())
        for name, field in declared(group).items():
            flags = ["--" + name.replace("_", "-"), *_OTHER_FLAGS.get(name, ())]
            section.add_argument(*flags, **_flag(name, field))


def _flag(name: str, field: FieldInfo) -> dict[str, Any]:
    """The arguments of ``add_argument`` for a setting."""
    word = none_word(field)
    text = f"{field.description}; {word!r}: until stopped" if word else str(field.description)
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


def write_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen lyric``, ``novel`` and ``generate``."""
    parser.add_argument("words", metavar="PROMPT", nargs="?", help="the text to continue; else --prompt-file or stdin")
    parser.add_argument("--prompt", metavar="TEXT", help="the same, as a flag")
    parser.add_argument("--prompt-file", metavar="FILE", help="read the prompt from a UTF-8 file; - is standard input")
    parser.add_argument(
        "--output", metavar="FILE", help="write the text to FILE token by token, instead of standard output, which - is"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per sample")
    parser.add_argument(
        "--profile", action="store_true", help="at the end, print the time of a decode step by its parts"
    )
    _common_flags(parser)
    _settings_flags(parser, WRITE_FLAGS)


def _heads_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--heads", metavar="N", default=argparse.SUPPRESS, help=FIELDS["heads"].description)


def inspect_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen inspect``."""
    parser.set_defaults(config=[])
    parser.add_argument("dir", metavar="DIR", nargs="?", help="checkpoint folder (default: the embedded model)")
    _heads_flag(parser)
    parser.add_argument("--verify", action="store_true", help="read all weights and compare them with their checksums")
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
        choices=("float32", "float16", "bfloat16"),
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
        choices=("float32", "float16", "bfloat16"),
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
    _common_flags(parser)
    _settings_flags(parser, MODEL_FLAGS)


def score_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen score``."""
    _pipe_flags(parser)
    _common_flags(parser)
    _settings_flags(parser, MODEL_FLAGS)


def _measuring_flags(parser: argparse.ArgumentParser) -> None:
    """The model and the texts of a measurement."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        default=argparse.SUPPRESS,
        help="checkpoint folder (default: the embedded one)",
    )
    parser.add_argument(
        "--data", metavar="FILE|DIR", required=True, help='texts in UTF-8, or JSON lines with a "text" in files *.jsonl'
    )
    parser.add_argument(
        "--records",
        action="store_true",
        help="blank lines separate documents in files of text (default: a file is one)",
    )
    parser.add_argument("--style", **_flag("style", FIELDS["style"]))


def eval_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen eval``."""
    _measuring_flags(parser)
    parser.add_argument(
        "--stride",
        metavar="N",
        type=int,
        help="how far the window moves through a document; only the tokens new to it are scored (default: --window-hop)",
    )
    parser.add_argument("--against", metavar="MODEL", help="another model, on the same documents")
    parser.add_argument(
        "--seed", metavar="SEED", default=argparse.SUPPRESS, help="of the confidence intervals (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    _common_flags(parser)
    _settings_flags(parser, MODEL_FLAGS)


def eval_window_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen eval-window``."""
    _measuring_flags(parser)
    parser.add_argument("--length", metavar="N", type=int, default=10_000, help="tokens of a text (default: 10000)")
    parser.add_argument("--texts", metavar="N", type=int, default=4, help="most texts of that length (default: 4)")
    parser.add_argument(
        "--hop",
        metavar="N",
        type=int,
        action="append",
        help="only this hop; may be repeated (default: 1, 64, 128, 256 and 512 as far as they fit, and --window-hop)",
    )
    parser.add_argument(
        "--keep",
        metavar="N",
        type=int,
        help="tokens kept from the beginning, in the method that keeps any; 0: leave it out (default: --window-keep or limit / 8)",
    )
    parser.add_argument(
        "--every",
        metavar="N",
        type=int,
        default=4,
        help="score a hop of 1 at every N-th token past the window (default: 4)",
    )
    parser.add_argument(
        "--generate",
        metavar="N",
        type=int,
        default=0,
        help="also write N tokens after the beginning of each text (default: 0)",
    )
    parser.add_argument(
        "--stale",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure the original's stale cache, in torch (default)",
    )
    parser.add_argument(
        "--seed", metavar="SEED", default=argparse.SUPPRESS, help="of intervals and of writing (default: 0)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON")
    parser.add_argument("--plot", metavar="FILE", help="also draw them: .png, .svg or .pdf; needs matplotlib")
    _common_flags(parser)
    _settings_flags(parser, (ModelOptions, SamplingParams))


def choose_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen choose``."""
    parser.add_argument(
        "task", metavar="TASK", help="ocnli, tnews, iflytek, or a YAML file like those in configs/choose"
    )
    parser.add_argument("--data", metavar="FILE", required=True, help="records as JSON lines")
    parser.add_argument("--predictions", metavar="FILE", help="write a JSON line for each record; - is standard output")
    parser.add_argument(
        "--score", choices=["mean", "sum"], help="of the span's negative log-probabilities (default: the task's)"
    )
    parser.add_argument(
        "--candidates",
        metavar="N",
        type=int,
        help="labels a record is tried with, the right one among them; 0: all (default: the task's)",
    )
    parser.add_argument(
        "--length", metavar="N", type=int, help="most ids of prompt and text (default: the network's positions)"
    )
    parser.add_argument(
        "--seed", metavar="SEED", default=argparse.SUPPRESS, help="of the candidates and the interval (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="the accuracy as one JSON object")
    _common_flags(parser)
    _settings_flags(parser, MODEL_FLAGS)


def serve_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of ``cpm-gen serve``."""
    parser.add_argument(
        "--new-key", metavar="NAME", help="print a new API key and its line for the --keys file, and end"
    )
    _common_flags(parser)
    _settings_flags(parser, SERVE_FLAGS)


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
    "serve": serve_flags,
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
}
