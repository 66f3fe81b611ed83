"""Settings of ``cpm-gen finetune``, and the values that a recipe gives them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from cpm_gen.config.declare import settings_group
from cpm_gen.config.fields import declared
from cpm_gen.config.options import Dtype, PathText
from cpm_gen.config.words import from_words
from cpm_gen.errors import ConfigError

Recipe = Literal["default", "cpm1"]
Schedule = Literal["linear", "cosine"]
Optimizer = Literal["adamw", "muon"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Kind = Literal["shards", "safetensors", "hf"]


@settings_group
class FinetuneOptions:
    """How a model is trained. A field that is None gets its value from the recipe."""

    recipe: Recipe = Field(
        default="default",
        description="default: random windows of packed texts; cpm1: the data rules and figures of CPM-1-Finetune",
    )
    steps: int | None = Field(default=None, ge=1, description="train for N steps; such a run can be repeated exactly")
    epochs: float | None = Field(
        default=None, gt=0, le=100_000, description="train for N passes over the texts (default: 3, without --minutes)"
    )
    minutes: float | None = Field(default=None, gt=0, le=1_000_000, description="train for N minutes")
    from_nothing: PathText | None = Field(
        default=None,
        description="train a new network of this size instead of --model: LAYERSxHIDDENxHEADSxPOSITIONS, such as 6x256x8x512, or a "
        "model-size file, such as cpm-distill; --tokenizer names its vocabulary (default: the embedded model's)",
    )
    lora: int | None = Field(
        default=None, ge=1, le=4096, description="train low-rank adapters of this rank, which are merged at the end"
    )
    learning_rate: float | None = Field(
        default=None, gt=0, le=1, description="at its peak (default: 0.08 / hidden size, five times that with --lora)"
    )
    schedule: Schedule = Field(
        default="linear",
        description="how the learning rate falls: to zero, with the recipe cpm1 to a tenth of its peak",
    )
    warmup: float | None = Field(
        default=None, ge=0, lt=1, description="share of the run in which the learning rate rises (default: 0.05)"
    )
    flat: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of the run after which the learning rate begins to fall (default: after the rise; with --from-nothing 0.45)",
    )
    optimizer: Optimizer | None = Field(
        default=None,
        description="muon: Muon for the matrices of the layers and AdamW for the rest (default: adamw; with --from-nothing muon)",
    )
    weight_decay: float = Field(default=0.01, ge=0, le=1, description="of matrices")
    clip: float = Field(default=1.0, ge=0, description="greatest norm of a step's gradient; 0: any")
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="while training (default: 0.1; with --from-nothing 0)"
    )
    length: int | None = Field(
        default=None,
        ge=8,
        description="tokens of a window (default: the network's positions; recipe cpm1: at most 1024)",
    )
    batch: int | None = Field(
        default=None, ge=1, le=65_536, description="windows of a step (default: 8; recipe cpm1: 4)"
    )
    micro_batch: int | None = Field(
        default=None,
        ge=1,
        description="windows of a step that are computed at once (default: as many as fit in memory)",
    )
    gradient_checkpointing: bool | None = Field(
        default=None,
        description="compute activations twice, for less memory (default: where one window would not fit otherwise)",
    )
    precision: Precision = Field(
        default="auto", description="of the computation; weights stay float32. auto: bfloat16 where the machine has it"
    )
    device: PathText = Field(default="auto", description="cpu, cuda, or auto: cuda where there is one")
    threads: int | None = Field(default=None, ge=1, le=1024, description="CPU threads (default: all cores)")
    held_out: float = Field(
        default=0.05, ge=0, lt=1, description="share of the texts that is not trained on, to measure; 0: none"
    )
    patience: int = Field(
        default=5,
        ge=0,
        description="end after N measurements of the held-out loss without a better one, and take the best; 0: never",
    )
    save_every: int | None = Field(
        default=None, ge=1, description="steps between checkpoints (default: 20 in the run, at each measurement)"
    )
    tensor_parallel: int = Field(default=1, ge=1, description="ranks that the shards are for")
    to: Kind = Field(
        default="shards",
        description="what to write: mp_rank shards, such shards in safetensors, or a Hugging Face folder",
    )
    output_dtype: Dtype | None = Field(
        default=None, description="number format of the weights (default: the model's; with --from-nothing float16)"
    )
    licence: str = Field(
        default="not stated", min_length=1, max_length=1000, description="of the result, for the model card"
    )
    sample: str | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="the prompt of the samples (default: the beginning of a text that is held out, or else of the first one)",
    )
    deepspeed: PathText | None = Field(
        default=None, description="DeepSpeed's configuration, such as configs/deepspeed/zero2.json"
    )


NAMES = tuple(declared(FinetuneOptions))
_CPM_1 = {
    "learning_rate": 1e-5,
    "schedule": "linear",
    "warmup": 0.1,
    "weight_decay": 0.01,
    "clip": 1.0,
    "dropout": 0.1,
    "precision": "float32",
    "gradient_checkpointing": True,
    "optimizer": "adamw",
    "patience": 0,
    "batch": 4,  # one window a step on two GPUs that divide the model, four steps gathered
}
_CPM_1_EPOCHS = {"lyric": 15.0, "novel": 10.0, "plain": 10.0}


def finetune_options(given: Mapping[str, Any], style: str) -> FinetuneOptions:
    """The settings of a run: what was ``given`` (words or values, by name), then the recipe's; paths absolute. Raises ConfigError."""
    fields = declared(FinetuneOptions)
    values = {}
    for name, value in given.items():
        try:
            FinetuneOptions(**{name: (read := from_words(value, fields[name]))})
        except ConfigError as error:
            raise ConfigError(f"--{name.replace('_', '-')}: {error}") from None
        values[name] = read
    lengths = [name for name in ("steps", "epochs", "minutes") if values.get(name) is not None]
    if len(lengths) > 1:
        raise ConfigError(f"--{lengths[0]} and --{lengths[1]} exclude each other; give one length of the run")
    if values.get("recipe") == "cpm1":
        if "held_out" in values:
            raise ConfigError("--held-out: the recipe cpm1 holds out the last 100 songs or 10 paragraphs; leave it out")
        values = _CPM_1 | values
        if not lengths:
            values["epochs"] = _CPM_1_EPOCHS[style]
    elif not lengths:
        values["epochs"] = 3.0
    for name in ("deepspeed", "from_nothing"):  # a run goes on from any folder
        if values.get(name) is not None and Path(values[name]).is_file():
            values[name] = str(Path(values[name]).absolute())
    options = FinetuneOptions(**values)
    check_together(options)
    return _completed(options)


def check_together(options: FinetuneOptions) -> None:
    """Raise ConfigError for settings that exclude each other."""
    if options.to == "hf" and options.tensor_parallel != 1:
        raise ConfigError("--tensor-parallel is for shards: a Hugging Face folder holds whole tensors")
    if options.lora is not None and options.from_nothing is not None:
        raise ConfigError(
            "--lora trains adapters of a model that has learned something; leave it out with --from-nothing"
        )
    if options.lora is not None and options.optimizer == "muon":
        raise ConfigError("--lora is trained with adamw; leave --optimizer muon out")
    if options.deepspeed is not None and options.optimizer == "muon":
        raise ConfigError("--deepspeed has optimizers of its own; leave --optimizer muon out")


def _completed(options: FinetuneOptions) -> FinetuneOptions:
    """``options`` with the values that depend on whether the network is new."""
    new = options.from_nothing is not None
    usual: dict[str, Any] = {
        "warmup": 0.05,
        "flat": 0.45 if new else 0.0,
        "optimizer": "muon" if new and options.deepspeed is None else "adamw",
        "dropout": 0.0 if new else 0.1,
        "batch": 8,
    }
    return dataclasses.replace(
        options, **{name: value for name, value in usual.items() if getattr(options, name) is None}
    )
