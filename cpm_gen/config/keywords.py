"""Keyword arguments of the Python interface: typed for the reader, checked against the settings' dataclasses."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from cpm_gen.config.options import (
    Decoder,
    Dtype,
    Kernels,
    KVFormat,
    ModelOptions,
    Quantize,
    SamplingParams,
    StyleName,
    TextOptions,
)
from cpm_gen.config.resolve import FIELDS, convert
from cpm_gen.config.serve_options import ServeOptions
from cpm_gen.engine.window import Boundary
from cpm_gen.errors import ConfigError


class LoadOptions(TypedDict, total=False):
    """Keyword arguments of :func:`load`; their meaning and defaults are :class:`cpm_gen.config.options.ModelOptions`'."""

    tokenizer: str | os.PathLike[str] | None
    heads: int | None
    dtype: Dtype
    quantize: Quantize
    kv_cache: KVFormat
    kernels: Kernels
    device: str
    tensor_parallel: int | Literal["auto"]
    threads: int | None
    decoder: Decoder
    batch: int
    window_limit: int | None
    window_hop: int | None
    window_boundary: Boundary
    window_keep: int


class GenerateOptions(TypedDict, total=False):
    """Keyword arguments of generate and stream: the fields of SamplingParams and TextOptions."""

    style: StyleName
    max_new_tokens: int | None
    stop: Sequence[str]
    stop_at_eod: bool
    seed: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    no_repeat_ngram: int
    min_new_tokens: int
    banned_ids: Sequence[int]


def model_options(given: dict[str, Any]) -> ModelOptions:
    """Settings of :func:`cpm_gen.llm.load`; raises ConfigError for an unknown name or a value that does not fit."""
    names = _names(ModelOptions)
    if unknown := [name for name in given if name not in names]:
        raise ConfigError(f"unknown setting {unknown[0]!r}; known: {', '.join(sorted(names))}")
    return ModelOptions(**_converted(given, names))


def generation_options(given: dict[str, Any]) -> tuple[SamplingParams, TextOptions]:
    """Settings of one generation; raises ConfigError."""
    sampling, text = _names(SamplingParams), _names(TextOptions)
    for name in given:
        if name not in FIELDS or name in _names(ServeOptions):
            raise ConfigError(f"unknown setting {name!r} for generation")
        if name not in sampling | text:
            raise ConfigError(f"{name} is fixed when a model is loaded; give it to load()")
    return SamplingParams(**_converted(given, sampling)), TextOptions(**_converted(given, text))


def _names(group: type[Any]) -> set[str]:
    return {f.name for f in dataclasses.fields(group)}


def _converted(given: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {k: convert(k, v, "argument") for k, v in given.items() if k in names}
