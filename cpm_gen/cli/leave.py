"""``convert`` and ``export``: a model for other programs."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from cpm_gen.checkpoints.publish import Progress
from cpm_gen.cli.notes import show_note
from cpm_gen.cli.progress import progress_bars
from cpm_gen.config.arguments import path_argument
from cpm_gen.config.options import ModelOptions
from cpm_gen.config.resolve import Settings
from cpm_gen.errors import ConfigError


def convert(args: argparse.Namespace, settings: Settings) -> int:
    """Write a model as a folder of another kind."""
    import torch

    from cpm_gen.runtime.conversions import convert_model

    target = path_argument(args.target, "the folder to write")
    if args.to == "hf" and args.degree is not None:
        raise ConfigError("--tensor-parallel is for shards: a Hugging Face folder holds whole tensors")
    options = dataclasses.replace(settings.model, model=args.source)
    with progress_bars() as progress:
        notes = convert_model(
            options,
            target,
            args.to,
            degree=1 if args.degree is None else args.degree,
            dtype=args.to_dtype and getattr(torch, args.to_dtype),
            force=args.force,
            progress=progress,
        )
    return _written(target, notes)


def export(args: argparse.Namespace, settings: Settings) -> int:
    """Write one file for another program."""
    _only(args)
    target = path_argument(args.target, "the file to write")
    options = dataclasses.replace(settings.model, model=args.source)
    with progress_bars() as progress:
        notes = (_export_onnx if args.format == "onnx" else _export_gguf)(args, options, target, progress)
    return _written(target, notes)


def _export_onnx(args: argparse.Namespace, options: ModelOptions, target: Path, progress: Progress) -> list[str]:
    from cpm_gen.checkpoints.locate import model_folder, open_checkpoint
    from cpm_gen.networks.onnx.export import export_onnx

    difference = export_onnx(
        open_checkpoint(model_folder(options.model)),
        target,
        heads=options.heads,
        dtype=args.to_dtype or "float32",
        past=args.past,
        batch=args.rows,
        length=args.columns,
        force=args.force,
        progress=progress,
    )
    return [f"checked in onnxruntime: logits within {difference:.1e} of the torch network's"]


def _export_gguf(args: argparse.Namespace, options: ModelOptions, target: Path, progress: Progress) -> list[str]:
    import torch

    from cpm_gen.runtime.conversions import export_model_as_gguf

    return export_model_as_gguf(
        options,
        target,
        ids_only=args.ids_only,
        dtype=args.to_dtype and getattr(torch, args.to_dtype),
        force=args.force,
        progress=progress,
    )


def _written(target: Path, notes: Sequence[str]) -> int:
    for note in notes:
        show_note(note)
    sys.stdout.write(f"{target}\n")
    return 0


def _only(args: argparse.Namespace) -> None:
    """Refuse flags that the kind of file does not use."""
    tokenizer = getattr(args, "tokenizer", None)
    onnx = {"--past": args.past, "--batch": args.rows, "--length": args.columns}
    gguf = {"--ids-only": args.ids_only, "--tokenizer": tokenizer}
    other, flags = ("onnx", onnx) if args.format == "gguf" else ("gguf", gguf)
    for name, value in flags.items():
        if value not in (None, False):
            raise ConfigError(f"{name} is for --format {other}")
    if args.ids_only and tokenizer is not None:
        raise ConfigError("--ids-only writes no vocabulary; leave --tokenizer out")
