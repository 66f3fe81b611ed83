"""The flags of the commands that measure a model."""

from __future__ import annotations

import argparse

from cpm_gen.cli.setting_flags import MODEL_FLAGS, common_flags, setting_flag, settings_flags
from cpm_gen.config.options import ModelOptions, SamplingParams
from cpm_gen.config.resolve import FIELDS


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
    parser.add_argument("--style", **setting_flag("style", FIELDS["style"]))


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
    common_flags(parser)
    settings_flags(parser, MODEL_FLAGS)


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
    common_flags(parser)
    settings_flags(parser, (ModelOptions, SamplingParams))


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
        dest="labels_each",  # "candidates" is a setting of texts
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
    common_flags(parser)
    settings_flags(parser, MODEL_FLAGS)
