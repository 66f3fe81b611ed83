"""What other programs' clients send, as our bodies have it.

SillyTavern, KoboldAI Lite, mikupad, lm-evaluation-harness and OpenAI's clients send fields of other servers. The tables below say which
of them are another name for a field of ours, and which are ignored, some only at the value that means "off". Any other value asks for a
feature that does not exist here, so it is refused under the name that the client used.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from pydantic.fields import FieldInfo

from cpm_gen.config.explain import mistake, unknown_field
from cpm_gen.config.fields import alternatives
from cpm_gen.config.logit_bias import entries_of

# another name: the name of the setting
ALIASES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_length": "max_tokens",
    "num_predict": "max_tokens",
    "n_predict": "max_tokens",
    "min_new_tokens": "min_tokens",
    "rep_pen": "repetition_penalty",
    "repeat_penalty": "repetition_penalty",
    "freq_pen": "frequency_penalty",
    "presence_pen": "presence_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
    "sampler_seed": "seed",
    "stopping_strings": "stop",
    "stop_sequence": "stop",
    "stop_sequences": "stop",
    "ban_eos_token": "ban_eod",
    "use_default_badwordsids": "ban_eod",
}

# values of our own fields that mean "the default" to other programs
DEFAULTS: Mapping[str, int] = {"top_k": -1, "seed": -1}

_UNLIMITED = {"max_new_tokens"}  # null is "unlimited" elsewhere, so it is not the default

# Ignored at any value. Most change no text, or only where another field turns on what is refused. Others change it there, but the
# clients that docs/clients.md lists always send them: the order of samplers, which is fixed here; the range of penalties, which is the
# window here; limits of the context and of the time. post_sampling_probs, from mikupad: log-probabilities are always those before sampling.
# fmt: off
IGNORED = frozenset((
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "request_id", "api_type",
    "api_server", "legacy_api", "can_abort", "genkey", "quiet", "skip_special_tokens",
    "spaces_between_special_tokens", "add_bos_token", "cache_prompt", "id_slot", "truncation_length",
    "max_context_length", "num_ctx", "n_ctx", "tfs_order", "sampler_order", "sampler_priority", "samplers",
    "temperature_last", "repetition_penalty_range", "rep_pen_range", "rep_pen_slope", "repeat_last_n",
    "dry_sequence_breakers", "dry_penalty_last_n", "dry_range", "mirostat_tau", "mirostat_eta", "smoothing_curve",
    "dynatemp_low", "dynatemp_high", "dynatemp_exponent", "xtc_threshold", "min_keep", "auto_max_new_tokens",
    "include_reasoning", "parallel_tool_calls", "adaptive_decay", "grammar_retain_state", "max_tokens_second",
    "post_sampling_probs", "timings_per_token", "add_special", "parse_special",
))
# fmt: on

# ignored at these values, which turn a feature off that does not exist here
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("typical_p", "typical", "tfs", "tfs_z", "guidance_scale", "cfg_scale", "num_beams"), (1,)),
    **dict.fromkeys(("encoder_repetition_penalty", "length_penalty", "skew_scale"), (1,)),
    **dict.fromkeys(("top_a", "epsilon_cutoff", "eta_cutoff", "penalty_alpha", "mirostat", "mirostat_mode"), (0,)),
    **dict.fromkeys(
        ("smoothing_factor", "dynatemp_range", "xtc_probability", "skew", "repetition_decay", "n_indent"), (0,)
    ),
    **dict.fromkeys(("min_length", "n_probs", "n_keep", "top_logprobs"), (0,)),
    **dict.fromkeys(("nsigma", "top_n_sigma"), (0, -1)),
    **dict.fromkeys(("dynamic_temperature", "use_beam_search", "early_stopping", "bypass_eos", "singleline"), (False,)),
    **dict.fromkeys(("include_stop_str_in_output", "speculative_ngram", "token_healing", "penalize_nl"), (False,)),
    **dict.fromkeys(("render_special", "return_token_ids", "return_tokens", "with_pieces"), (False,)),
    **dict.fromkeys(("use_story", "use_memory", "use_authors_note", "use_world_info"), (False,)),
    "replace_instruct_placeholders": (False,),
    **dict.fromkeys(
        ("negative_prompt", "grammar", "grammar_string", "memory", "custom_token_bans", "banned_tokens"), ("", [])
    ),
    **dict.fromkeys(
        (
            "banned_strings",
            "bad_words",
            "stop_token_ids",
            "logit_bias_exp",
            "images",
            "tools",
            "functions",
            "lora",
            "image_data",
        ),
        ([], ""),
    ),
    **dict.fromkeys(
        ("prompt_logprobs", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar"), ({}, "")
    ),
    "adaptive_target": (-1, -0.01),  # below 0: off
    "reasoning_effort": ("none",),
    "do_sample": (True,),
    "trim_stop": (True,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
}

_DEPTH = (
    64  # levels of lists and objects in a field; more than any client sends, and far below Python's limit of recursion
)

_called: ContextVar[Mapping[str, str]] = ContextVar("called")


def called() -> Mapping[str, str]:
    """What the client of this request calls our settings, where it is another name: its body's, or the alias that it used."""
    return _called.get({})


def adapt(
    given: Mapping[str, Any],
    fields: Mapping[str, FieldInfo],
    *,
    foreign: bool,
    defaults: Mapping[str, int] = DEFAULTS,
    names: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """A body's values under our names. Raises a mistake that names the field as the client did.

    null is left out where it is not a value of the field; 40.0 is 40. foreign: also aliases and other programs' defaults, for endpoints
    that are theirs. names: what settings are called in this body.
    """
    values: dict[str, Any] = {}
    used: dict[str, str] = {}
    for name, value in given.items():
        if name in fields:
            field = fields[name]
            if value is None and not field.is_required() and field.default is not None and name not in _UNLIMITED:
                continue
            if foreign and name in defaults and value == defaults[name] and not isinstance(value, bool):
                continue
            values[name] = _whole(value, field)
    for name, value in given.items():
        if name in fields or value is None:
            continue
        own = ALIASES.get(name) if foreign else None
        if own is not None and own in fields:
            if value == defaults.get(own) or (own == "stop" and value in ("", [])):
                continue
            value = _whole(value, fields[own])
            if own in values and values[own] != value:
                _called.set({own: name})
                raise mistake(name, "is given under two names with two values; give one of them")
            if own not in values:
                values[own], used[own] = value, name
        elif name in NEUTRAL:
            if not any(
                value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in NEUTRAL[name]
            ):
                raise mistake(
                    name, f"is not supported; only {NEUTRAL[name][0]!r} or null is taken, which changes nothing"
                )
        elif name not in IGNORED:
            values[name] = value  # refused as unknown
    _called.set({setting: used.get(own, own) for setting, own in names.items()} | used)
    return values


def _whole(value: Any, field: FieldInfo) -> Any:
    """40 for 40.0, where the field has whole numbers only."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        kinds = alternatives(field.annotation)
        return int(value) if int in kinds and float not in kinds else value
    return value


def check_known(given: Iterable[str], fields: Iterable[str]) -> None:
    """Raise a mistake for the first field that the body does not have: one is enough to refuse it."""
    known = set(fields)
    for name in given:
        if name not in known:
            raise unknown_field(name, known)


def check_text(given: Any) -> None:
    """Raise a mistake for the first text, keys included, with a lone surrogate: it is no Unicode, and cannot be stored or sent."""
    with contextlib.suppress(ValueError, RecursionError):  # UnicodeEncodeError is a ValueError
        json.dumps(given, ensure_ascii=False, skipkeys=True, default=repr).encode()
        return  # in a tenth of the time that the walk takes, which only finds the place
    todo: list[tuple[str, Any]] = [("", given)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, str):
            if not value.isascii() and not _is_unicode(value):
                raise mistake(path, "must be Unicode text, without lone surrogates")
        elif isinstance(value, dict):
            if not all(key.isascii() or _is_unicode(key) for key in value):
                raise mistake(path, "must have names that are Unicode text, without lone surrogates")
            todo += [(f"{path}.{key}" if path else key, entry) for key, entry in value.items()]
        elif isinstance(value, list):
            todo += [(f"{path}.{at}", v) for at, v in enumerate(value) if isinstance(v, (str, dict, list))]


def check_depth(given: Mapping[str, Any]) -> None:
    """Raise a mistake for the first field whose lists and objects are nested so deeply that comparing or printing it could fail."""
    for name, value in given.items():
        if isinstance(value, (dict, list)) and _is_deep(value):
            raise mistake(name if name.isprintable() and len(name) <= 64 else "", "is nested too deeply")


def _is_deep(value: dict[str, Any] | list[Any]) -> bool:
    level: list[Any] = [value]
    for _ in range(_DEPTH):
        level = [e for v in level for e in (v.values() if isinstance(v, dict) else v) if isinstance(e, (dict, list))]
        if not level:
            return False
    return True


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bias_entries(given: Any) -> Any:
    """Token ids and biases as entries of the setting ``logit_bias``; anything else as it is. Raises a mistake.

    They are an object, as OpenAI has them, or a list of pairs, as llama.cpp has them, where false bans a token.
    """
    if isinstance(given, list) and given and all(isinstance(pair, list) and len(pair) == 2 for pair in given):
        given = {str(token): -100 if bias is False else bias for token, bias in given}
    if not isinstance(given, dict):
        return given
    try:
        return list(entries_of(given))
    except ValueError as error:
        raise mistake("logit_bias", str(error)) from None
