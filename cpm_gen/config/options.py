"""Settings: what they are, where they come from, and which source wins.

Every setting is a field of one of the frozen groups below; its default stands there and nowhere else. Flags,
``CPM_GEN_*`` variables, YAML keys and keyword arguments all use the field's name (``window_hop`` is ``--window-hop``,
``CPM_GEN_WINDOW_HOP``, ``window_hop:`` and ``window_hop=``). Order of precedence, weakest first: defaults, the command's own file
(``configs/lyric.yaml`` for ``cpm-gen lyric``), ``--config`` files in the order given, environment, flags.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from cpm_gen.config.option import option
from cpm_gen.errors import ConfigError

Dtype = Literal["float32", "bfloat16", "float16"]
Decoder = Literal["cached", "recompute"]
Kernels = Literal["auto", "native", "torch", "graphs"]
Quantize = Literal["none", "int8"]
KVFormat = Literal["auto", "int8"]
StyleName = Literal["lyric", "novel", "plain"]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which network, where it runs and how its window moves: fixed for the life of a loaded model."""

    model: str | None = option(None, "checkpoint folder, or 'embedded' (default: the embedded model)")
    tokenizer: str | None = option(None, "folder of chinese_vocab.model (default: beside the checkpoint)")
    heads: int | None = option(None, "attention heads, where the checkpoint's size does not tell")
    hidden: int | None = option(None, "hidden size that the checkpoint must have (model-size files set it)")
    dtype: Dtype = option("float32", "number format of weights and activations")
    quantize: Quantize = option(
        "none", "int8: weights in 8 bits; a quarter of the memory, on CPUs twice the speed and more"
    )
    kv_cache: KVFormat = option(
        "auto",
        "int8: keys and values in 8 bits, about half of what texts keep and read beside each other; native kernels only",
    )
    kernels: Kernels = option(
        "auto",
        "what computes: native (on CPUs, built with cpm-gen), torch, graphs (CUDA graphs of our own kernels, on trial), or auto: "
        "native where it was built, otherwise torch",
    )
    device: str = option("auto", "cpu, cuda, cuda:N, or auto: cuda where there is one")
    tensor_parallel: int | Literal["auto"] = option(
        1, "ranks to cut the network over; auto: as the checkpoint was saved"
    )
    threads: int | None = option(
        None, "CPU threads of all ranks together (default: as many as pay for the model's size)"
    )
    decoder: Decoder = option(
        "cached", "cached: KV cache; recompute: the whole context for every token, the slow oracle"
    )
    batch: int = option(8, "most sequences that run at once")
    window_limit: int | None = option(None, "most tokens the network sees (default: its positions less one)")
    window_hop: int | None = option(None, "how far a full window moves, in tokens (default: half the limit)")
    window_boundary: Literal["token", "sentence", "eod"] = option("token", "what a window may begin after")
    window_keep: int = option(0, "tokens from the very beginning that always stay in the window")


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is chosen. Checked on construction; raises ConfigError."""

    temperature: float = option(1.0, "divides the logits; 0 takes the most probable token (greedy)")
    top_k: int = option(0, "keep the k most probable tokens; 0: all")
    top_p: float = option(0.0, "keep the smallest set of tokens with this probability; 0 or 1: all")
    min_p: float = option(0.0, "drop tokens below this fraction of the best one's probability; 0: none")
    repetition_penalty: float = option(1.0, "above 1 makes tokens in the window less likely (CTRL, Keskar 2019)")
    presence_penalty: float = option(0.0, "subtracted once from the logit of tokens already written in the window")
    frequency_penalty: float = option(0.0, "subtracted per occurrence in what was written in the window")
    no_repeat_ngram: int = option(0, "never write an n-gram of this length twice within the window; 0: allowed")
    min_new_tokens: int = option(0, "neither stop strings nor <eod> end the text before this many tokens")
    banned_ids: tuple[int, ...] = option((), "token ids that are never written")

    def __post_init__(self) -> None:
        """Check every range."""
        for name, low, high in (
            ("temperature", 0, math.inf),
            ("top_p", 0, 1),
            ("min_p", 0, 1),
            ("presence_penalty", -math.inf, math.inf),
            ("frequency_penalty", -math.inf, math.inf),
            ("top_k", 0, math.inf),
            ("no_repeat_ngram", 0, math.inf),
            ("min_new_tokens", 0, math.inf),
        ):
            value = getattr(self, name)
            whole = type(type(self).__dataclass_fields__[name].default) is int
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise ConfigError(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}")
            if not (math.isfinite(value) and low <= value <= high):
                bounds = f"from {low} to {high}" if math.isfinite(high) else f"at least {low}"
                raise ConfigError(f"{name} must be a number {bounds if low == 0 else ''}".rstrip() + f", not {value}")
        if not (isinstance(self.repetition_penalty, (int, float)) and 0 < self.repetition_penalty < math.inf):
            raise ConfigError(f"repetition_penalty must be above 0, not {self.repetition_penalty}")
        if bad := [i for i in self.banned_ids if i < 0]:
            raise ConfigError(f"banned_ids must not be negative: {bad[0]}")


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What to write: how prompts become tokens and where a text ends."""

    style: StyleName = option("plain", "how the prompt becomes tokens and <eod> is read")
    max_new_tokens: int | None = option(256, "tokens to write; 'unlimited' goes on until stopped")
    stop: tuple[str, ...] = option((), "end before this string; may be given several times")
    stop_at_eod: bool = option(False, "end at <eod>")
    seed: int | None = option(None, "same seed, same text (default: drawn, and reported)")
    n: int = option(1, "samples per prompt")

    def __post_init__(self) -> None:
        """Check ranges; raises ConfigError."""
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1 or 'unlimited', not {self.max_new_tokens}")
        if self.seed is not None and not 0 <= self.seed < 2**64:
            raise ConfigError(f"seed must be from 0 to 2**64 - 1, not {self.seed}")
        if self.n < 1:
            raise ConfigError(f"n must be at least 1, not {self.n}")
        if "" in self.stop:
            raise ConfigError("a stop string must not be empty")
