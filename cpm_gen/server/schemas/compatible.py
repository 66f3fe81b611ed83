"""What other programs' clients send, as our bodies have it.

SillyTavern, KoboldAI Lite, mikupad, lm-evaluation-harness and OpenAI's clients send fields of other servers. The tables below say which
of them are another name for a field of ours, and which change nothing here: those are ignored, some only at the value that means "off".
Any other value would change the text there and not here, so it is refused under the name that the client used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

from pydantic.fields import FieldInfo

from cpm_gen.config.explain import mistake, unknown_field
from cpm_gen.config.fields import alternatives
from cpm_gen.config.logit_bias import entries_of

# another name: the name of the setting
ALIASES: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
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
}

# values of our own fields that mean "the default" to other programs
DEFAULTS: Mapping[str, int] = {"top_k": -1, "seed": -1}

_UNLIMITED = {"max_new_tokens"}  # null is "unlimited" elsewhere, so it is not the default

# ignored at any value: they have no effect here, or only where another field turns on what is refused
# fmt: off
IGNORED = frozenset((
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "request_id", "api_type",
    "api_server", "legacy_api", "can_abort", "genkey", "quiet", "skip_special_tokens",
    "spaces_between_special_tokens", "add_bos_token", "cache_prompt", "id_slot", "trim_stop", "truncation_length",
    "max_context_length", "num_ctx", "n_ctx", "tfs_order", "sampler_order", "sampler_priority", "samplers",
    "temperature_last", "repetition_penalty_range", "rep_pen_range", "rep_pen_slope", "repeat_last_n",
    "dry_sequence_breakers", "dry_penalty_last_n", "dry_range", "mirostat_tau", "mirostat_eta", "smoothing_curve",
    "dynatemp_low", "dynatemp_high", "dynatemp_exponent", "xtc_threshold", "min_keep", "auto_max_new_tokens",
    "include_reasoning", "parallel_tool_calls",
))
# fmt: on

# ignored at these values, which turn a feature off that does not exist here
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(("typical_p", "typical", "tfs", "tfs_z", "guidance_scale", "cfg_scale", "num_beams"), (1,)),
    **dict.fromkeys(("encoder_repetition_penalty", "length_penalty", "skew_scale"), (1,)),
    **dict.fromkeys(("top_a", "epsilon_cutoff", "eta_cutoff", "penalty_alpha", "mirostat", "mirostat_mode"), (0,)),
    **dict.fromkeys(("smoothing_factor", "dynatemp_range", "xtc_probability", "skew", "repetition_decay"), (0,)),
    **dict.fromkeys(("min_length", "n_probs", "n_keep", "top_logprobs"), (0,)),
    **dict.fromkeys(("nsigma", "top_n_sigma"), (0, -1)),
    **dict.fromkeys(
        ("dynamic_temperature", "use_beam_search", "early_stopping", "ban_eos_token", "bypass_eos"), (False,)
    ),
    **dict.fromkeys(("include_stop_str_in_output", "speculative_ngram", "token_healing", "penalize_nl"), (False,)),
    **dict.fromkeys(("render_special", "use_default_badwordsids", "return_token_ids"), (False,)),
    **dict.fromkeys(
        ("negative_prompt", "grammar", "grammar_string", "memory", "custom_token_bans", "banned_tokens"), ("", [])
    ),
    **dict.fromkeys(
        ("banned_strings", "bad_words", "stop_token_ids", "logit_bias_exp", "images", "tools", "functions"), ([], "")
    ),
    **dict.fromkeys(
        ("prompt_logprobs", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar"), ({}, "")
    ),
    "do_sample": (True,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
}

_called: ContextVar[Mapping[str, str]] = ContextVar("called")


def called() -> Mapping[str, str]:
    """What the client of this request calls our fields: an alias for each that it used."""
    return _called.get({})


def adapt(given: Mapping[str, Any], fields: Mapping[str, FieldInfo], *, foreign: bool) -> dict[str, Any]:
    """A body's values under our names. Raises a mistake that names the field as the client did.

    null is left out where it is not a value of the field; 40.0 is 40. foreign: also aliases and other programs' defaults, for endpoints
    that are theirs.
    """
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in given.items():
        if name in fields:
            field = fields[name]
            if value is None and not field.is_required() and field.default is not None and name not in _UNLIMITED:
                continue
            if foreign and name in DEFAULTS and value == DEFAULTS[name] and not isinstance(value, bool):
                continue
            values[name] = _whole(value, field)
    for name, value in given.items():
        if name in fields or value is None:
            continue
        own = ALIASES.get(name) if foreign else None
        if own is not None and own in fields:
            if value == DEFAULTS.get(own) or value in ("", []):
                continue
            value = _whole(value, fields[own])
            if own in values and values[own] != value:
                _called.set({own: name})
                raise mistake(name, "is given under two names with two values; give one of them")
            if own not in values:
                values[own], names[own] = value, name
        elif name in NEUTRAL:
            if not any(
                value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in NEUTRAL[name]
            ):
                raise mistake(
                    name, f"is not supported; only {NEUTRAL[name][0]!r} or null is taken, which changes nothing"
                )
        elif name not in IGNORED:
            values[name] = value  # refused as unknown
    _called.set(names)
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


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def bias_entries(given: Any) -> Any:
    """An object of token ids and biases as entries of the setting ``logit_bias``; anything else as it is. Raises a mistake."""
    if not isinstance(given, dict):
        return given
    try:
        return list(entries_of(given))
    except ValueError as error:
        raise mistake("logit_bias", str(error)) from None
