"""Write a trained network as a model: its weights in the form that was asked for, with its vocabulary and its table of bigrams."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch

from cpm_gen.finetuning.prepare import Prepared
from cpm_gen.runtime.conversions import convert_model
from cpm_gen.text.find_tokenizer import vocabulary_file


def write_model(prepared: Prepared, model: Any, whole: Path, target: Path, *, iteration: str) -> None:
    """Write transformers' ``model`` to the folder ``target``; ``whole`` is a folder for it on the way.

    iteration: the name of the shards' folder. Raises InputError where the disk is full.
    """
    request = prepared.request
    options = request.options
    model.config.use_cache = True
    model.save_pretrained(whole)
    config = whole / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**content, "architectures": ["GPT2LMHeadModel"]}, indent=2), encoding="utf-8")
    dtype = options.output_dtype or _stored_dtype(prepared)
    source = dataclasses.replace(request.model, model=str(whole), tokenizer=str(vocabulary_file(request.model)))
    convert_model(
        source,
        target,
        options.to,
        degree=options.tensor_parallel,
        dtype=getattr(torch, dtype),
        iteration=iteration,
    )


def _stored_dtype(prepared: Prepared) -> str:
    """That of the model that the run began with."""
    return "float16" if prepared.checkpoint is None else str(prepared.checkpoint.dtype).removeprefix("torch.")
