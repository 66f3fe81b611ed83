"""Lines of OpenAI's batch files: a completion's body under our names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cpm_gen.config.arguments import shown
from cpm_gen.errors import InputError

URL = "/v1/completions"
DEFAULTS: Mapping[str, Any] = {"max_new_tokens": 16, "stop_at_eod": True}  # of that API, where they are not ours
_ENVELOPE = ("custom_id", "method", "url", "body")
_NAMES = {"max_tokens": "max_new_tokens", "max_completion_tokens": "max_new_tokens", "min_tokens": "min_new_tokens"}
# they change no text: the model is the one that was loaded, and no client waits
_IGNORED = ("model", "user", "metadata", "store", "service_tier", "stream_options")
_OFF: Mapping[str, tuple[Any, ...]] = {  # the values that ask for nothing
    "stream": (False,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (),
}


def completion_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt and the settings of a line, without those that are null. Raises InputError for what is not supported, by name."""
    for name in content:
        if name not in _ENVELOPE and content[name] is not None:
            raise InputError(f"{shown(name)} is no field of OpenAI's batch lines, which have {', '.join(_ENVELOPE)}")
    body = content.get("body")
    if not isinstance(body, Mapping):
        raise InputError('needs "body", an object')
    if content.get("method", "POST") != "POST":
        raise InputError(f"method must be POST, not {shown(content['method'])}")
    if content.get("url", URL) != URL:
        raise InputError(f"url must be {URL}, not {shown(content['url'])}")
    given = {name: value for name, value in body.items() if value is not None and name not in _IGNORED}
    for name, values in _OFF.items():
        if name in given and given.pop(name) not in values:
            raise InputError(f"{name} is not supported in a batch; leave it out")
    if given.pop("best_of", given.get("n", 1)) != given.get("n", 1):
        raise InputError("best_of is not supported unless it equals n; n with rank has the best first")
    settings: dict[str, Any] = {}
    for name, value in given.items():
        own = _NAMES.get(name, name)
        if own in settings:
            raise InputError(f"{name} is given under two names; give one of them")
        settings[own] = value
    return settings
