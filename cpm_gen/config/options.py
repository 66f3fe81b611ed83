"""Settings of the model and of what it writes. Each is declared here: its type, default, bounds and help stand nowhere else.

Flags, ``CPM_GEN_*`` variables, YAML keys and keyword arguments all use the field's name (``window_hop`` is ``--window-hop``,
``CPM_GEN_WINDOW_HOP``, ``window_hop:`` and ``window_hop=``). Order of precedence, weakest first: defaults, the command's own file
(``configs/lyric.yaml`` for ``cpm-gen lyric``), ``--config`` files in the order given, environment, flags.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from cpm_gen.config.declare import settings_group
from cpm_gen.config.fields import FileFlag, NoneWord, Pairs
from cpm_gen.config.logit_bias import checked
from cpm_gen.errors import ConfigError

Dtype = Literal["float32", "bfloat16", "float16"]
Decoder = Literal["cached", "recompute"]
Kernels = Literal["auto", "native", "torch", "graphs", "onnx"]
Quantize = Literal["none", "int8"]
KVFormat = Literal["auto", "int8"]
StyleName = Literal["lyric", "novel", "plain"]
LyricLines = Literal["newline", "eod"]
Boundary = Literal["token", "sentence", "eod"]
RhymeBook = Literal["平水韵", "词林正韵", "中华新韵", "中华通韵", "十三辙"]

MOST_IDS = 2**31 - 1  # token ids, and counts of tokens within a window
FORM_SETTINGS = ("form", "rhyme_book", "acrostic", "include", "exclude")  # which form, and what it asks for

DRY_HISTORY = 20_000  # the DRY penalty looks at this many of a text's last tokens
DRY_LONGEST = 50  # and counts no more tokens of a repeated passage than these


def _notation(value: object) -> object:
    """A form or a story as it is written; these are values of :mod:`cpm_gen.text`, which settings do not know, and both can ``parse``."""
    return str(value) if callable(getattr(value, "parse", None)) else value


TokenId = Annotated[int, Field(strict=True, ge=0, le=MOST_IDS)]
StopString = Annotated[str, Field(strict=True, min_length=1, max_length=4096)]
PathText = Annotated[str, Field(strict=True, min_length=1)]  # "" is what an unset shell variable gives
PieceName = Annotated[str, Field(strict=True, min_length=1, max_length=256)]
# strict=False of a tuple: a list is taken for one; its entries stay strict. A megabyte of wrong entries is one error.
TokenIds = Annotated[tuple[TokenId, ...], Field(strict=False, fail_fast=True)]
Bias = Annotated[str, Field(strict=True, max_length=64), AfterValidator(checked)]
Biases = Annotated[tuple[Bias, ...], Field(strict=False, fail_fast=True, max_length=1024)]
FormText = Annotated[str, Field(strict=True, min_length=1, max_length=20_000), BeforeValidator(_notation)]
Words = Annotated[tuple[PieceName, ...], Field(strict=False, fail_fast=True, max_length=64)]
StoryText = Annotated[str, Field(strict=True, min_length=1, max_length=100_000), BeforeValidator(_notation)]
KeptLines = Annotated[  # one for each line, or several in one
    tuple[Annotated[str, Field(strict=True, max_length=20_000)] | None, ...],
    Field(strict=False, fail_fast=True, max_length=2000),
]
StopStrings = Annotated[tuple[StopString, ...], Field(strict=False, fail_fast=True, max_length=256)]


@settings_group
class ModelOptions:
    """Which network, where it runs and how its window moves: fixed for the life of a loaded model."""

    model: PathText | None = Field(
        default=None, description="checkpoint folder, or 'embedded' (default: the embedded model)"
    )
    tokenizer: PathText | None = Field(
        default=None, description="vocabulary's folder or file, of any kind (default: beside the checkpoint)"
    )
    start_token: PieceName | None = Field(
        default=None,
        description="the token that begins a text, such as [MASK]: where nothing is given to continue (unconditional), and before "
        "prompts in the styles lyric and novel (default: the tokenizer's; only BERT's stands before prompts)",
    )
    end_token: PieceName | None = Field(
        default=None, description="the token that ends a text, such as [CLS] or <sep> (default: the tokenizer's)"
    )
    heads: int | None = Field(
        default=None, ge=1, description="attention heads, where the checkpoint's size does not determine them"
    )
    hidden: int | None = Field(
        default=None, ge=1, description="hidden size that the checkpoint must have (model-size files set it)"
    )
    dtype: Dtype = Field(default="float32", description="number format of weights and activations")
    quantize: Quantize = Field(
        default="none",
        description="int8: weights in 8 bits; a quarter of the memory, on CPUs twice the speed and more",
    )
    kv_cache: KVFormat = Field(
        default="auto",
        description="int8: keys and values in 8 bits, about half of the KV cache's memory and reads; native kernels only",
    )
    kernels: Kernels = Field(
        default="auto",
        description="the backend: native (on CPUs, built with cpm-gen), torch, graphs (CUDA graphs of our own kernels, "
        "experimental), onnx (a model that is an ONNX file of cpm-gen export), or auto: native where it was built, otherwise torch",
    )
    device: PathText = Field(default="auto", description="cpu, cuda, cuda:N, or auto: cuda where there is one")
    tensor_parallel: int | Literal["auto"] = Field(
        default=1, description="ranks to split the network over; auto: as the checkpoint was saved"
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPU threads of all ranks together (default: as many as speed up a model of this size)",
    )
    decoder: Decoder = Field(
        default="cached", description="cached: KV cache; recompute: the whole context for every token, the slow oracle"
    )
    batch: int = Field(default=8, ge=1, le=65_536, description="most sequences that run at once")
    window_limit: int | None = Field(
        default=None, ge=1, le=MOST_IDS, description="most tokens the network sees (default: its positions less one)"
    )
    window_hop: int | None = Field(
        default=None, ge=1, le=MOST_IDS, description="how far a full window moves, in tokens (default: half the limit)"
    )
    window_boundary: Boundary = Field(default="token", description="what a window may begin after")
    window_keep: int = Field(
        default=0, ge=0, le=MOST_IDS, description="tokens from the very beginning that always stay in the window"
    )
    lyric_lines: LyricLines = Field(
        default="newline",
        description="what ends a line of a prompt in the lyric style: newline: a newline or the string <eod>; "
        "eod: the string <eod> alone, as in the original",
    )
    special_pieces: bool = Field(
        default=False,
        description="names of special pieces in a prompt (<sep>, </s>, <mask>, …) are their tokens, and <unk> may be written",
    )
    form_bigrams: PathText | None = Field(
        default=None,
        description="a table of cpm-gen form learn, which makes lines in a form run towards their rhymes, or none "
        "(default: form_bigrams.xz beside the model)",
    )


@settings_group
class SamplingParams:
    """How the next token is chosen. Checked on construction; raises ConfigError."""

    temperature: float = Field(
        default=1.0, ge=0, le=100, description="divides the logits; 0 takes the most probable token (greedy)"
    )
    top_k: int = Field(default=0, ge=0, le=MOST_IDS, description="keep the k most probable tokens; 0: all")
    top_p: float = Field(
        default=0.0, ge=0, le=1, description="keep the smallest set of tokens with this probability; 0 or 1: all"
    )
    min_p: float = Field(
        default=0.0, ge=0, le=1, description="drop tokens below this fraction of the best one's probability; 0: none"
    )
    repetition_penalty: float = Field(
        default=1.0,
        ge=0.01,
        le=100,
        description="above 1 makes tokens in the window less likely (CTRL, Keskar 2019)",
    )
    presence_penalty: float = Field(
        default=0.0,
        ge=-100,
        le=100,
        description="subtracted once from the logit of tokens already written in the window",
    )
    frequency_penalty: float = Field(
        default=0.0, ge=-100, le=100, description="subtracted per occurrence in what was written in the window"
    )
    no_repeat_ngram: int = Field(
        default=0, ge=0, le=1024, description="never write an n-gram of this length twice within the window; 0: allowed"
    )
    min_new_tokens: int = Field(
        default=0, ge=0, le=MOST_IDS, description="neither stop strings nor <eod> end the text before this many tokens"
    )
    banned_ids: TokenIds = Field(default=(), description="token ids that are never written")
    logit_bias: Annotated[Biases, Pairs()] = Field(
        default=(), description="ID:BIAS, added to the logit of a token, from -100 to 100; may be given several times"
    )
    dry_multiplier: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="DRY: a token that would continue a passage which the text's last 20,000 tokens already hold loses this much, "
        "times dry_base for each token of the passage beyond dry_allowed_length, up to 50; 0: off",
    )
    dry_base: float = Field(default=1.75, ge=1, le=10, description="how fast the DRY penalty grows with the passage")
    dry_allowed_length: int = Field(
        default=2, ge=1, le=DRY_LONGEST, description="tokens of a passage from which on the DRY penalty applies"
    )


@settings_group
class TextOptions:
    """What to write: how prompts become tokens and where a text ends."""

    style: StyleName = Field(default="plain", description="how the prompt becomes tokens and <eod> is read")
    max_new_tokens: Annotated[int | None, NoneWord("unlimited")] = Field(
        default=256, ge=1, le=2**53 - 1, description="tokens to write"
    )
    stop: StopStrings = Field(default=(), description="end before this string; may be given several times")
    stop_at_eod: bool = Field(
        default=False,
        description="end at <eod>, which ends lines, too; other vocabularies' end tokens always end a text",
    )
    ignore_eos: bool = Field(default=False, description="write on past the token that ends a text")
    unconditional: bool = Field(
        default=False, description="write without a prompt, from the token that begins a text (start_token)"
    )
    seed: int | None = Field(
        default=None, ge=0, le=2**64 - 1, description="same seed, same text (default: drawn, and reported)"
    )
    n: int = Field(default=1, ge=1, le=2**16, description="samples per prompt")
    rank: bool = Field(
        default=False, description="the samples of a prompt come best first, by log-probability a character"
    )
    candidates: int = Field(
        default=1,
        ge=1,
        le=16,
        description="write each sentence, or clause of a form, this many times and keep the best; each takes a place of the batch",
    )
    form: FormText | None = Field(
        default=None,
        description="the form of the text: a name such as 七绝, or 浣溪沙 2, or its notation; it ends the text, whatever max_new_tokens",
    )
    rhyme_book: RhymeBook | None = Field(default=None, description="what rhymes in the form (default: the form's)")
    acrostic: PieceName | None = Field(default=None, description="first characters of the form's lines (藏头)")
    include: Words = Field(default=(), description="a word that the form's text holds; may be given several times")
    exclude: Words = Field(
        default=(), description="a word that the form's text does not hold; may be given several times"
    )
    story: Annotated[StoryText | None, FileFlag()] = Field(
        default=None,
        description="what stays in sight however long the text grows: premise, characters, note, lore, and chapters, which end it "
        "whatever max_new_tokens; in the notation of docs/novels.md",
    )
    keep_lines: Annotated[KeptLines, FileFlag()] = Field(
        default=(), description="lines of the form's text that stay, one for each line; null or an empty one is written"
    )


def check_lengths(sampling: SamplingParams, text: TextOptions) -> None:
    """Check that the least number of tokens is not above the most; raises ConfigError."""
    least, most = sampling.min_new_tokens, text.max_new_tokens
    if most is not None and least > most:
        raise ConfigError(f"min_new_tokens must be at most max_new_tokens, which is {most}, not {least}")


def check_candidates(text: TextOptions, batch: int) -> None:
    """Check that a text's candidates for a sentence fit the batch of the model; raises ConfigError."""
    if text.candidates > batch:
        raise ConfigError(
            f"candidates must be at most {batch}, the batch that the model was loaded with, not {text.candidates}; "
            f"load it with batch {text.candidates} or more"
        )
