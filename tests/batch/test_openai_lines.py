"""Lines of OpenAI's batch files: its defaults, its names, and what is refused by name."""

from typing import Any

import pytest

from cpm_gen.batch.line_text import LineText, line_text
from cpm_gen.batch.lines import Line
from cpm_gen.config.options import TextOptions
from cpm_gen.config.resolve import Settings, resolve
from cpm_gen.errors import ConfigError, InputError


def asked(body: Any, settings: Settings | None = None, **envelope: Any) -> LineText:
    content = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body, **envelope}
    return line_text(Line(1, "a", content), settings or Settings())


def test_the_defaults_are_those_of_that_api_unless_the_command_gives_others() -> None:
    text = asked({"model": "m", "prompt": "春"}).text
    assert (text.max_new_tokens, text.stop_at_eod) == (16, True)
    text = asked({"prompt": "春"}, resolve(flags={"max_new_tokens": "40", "style": "novel"})).text
    assert (text.max_new_tokens, text.stop_at_eod, text.style) == (40, True, "novel")
    text = asked({"prompt": "春", "max_tokens": 5, "stop_at_eod": False}, resolve(flags={"max_new_tokens": "40"})).text
    assert (text.max_new_tokens, text.stop_at_eod) == (5, False)
    assert TextOptions().max_new_tokens != 16


def test_a_body_has_its_names_and_ours() -> None:
    found = asked(
        {
            "prompt": [10, 11],
            "max_completion_tokens": 5,
            "min_tokens": 2,
            "temperature": 0.5,
            "top_p": 0.9,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
            "logit_bias": {"12": -100},
            "stop": "。",
            "n": 3,
            "best_of": 3,
            "seed": 4,
            "user": "u",
            "metadata": {"a": "b"},
            "stream": False,
            "echo": False,
            "suffix": None,
            "logprobs": None,
            "top_k": 30,
            "candidates": 2,
        }
    )
    sampling, text = found.sampling, found.text
    assert found.prompt == [10, 11]
    assert (text.max_new_tokens, sampling.min_new_tokens, text.stop, text.n, text.seed) == (5, 2, ("。",), 3, 4)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, text.candidates) == (0.5, 0.9, 30, 2)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.logit_bias) == (0.1, 0.2, ("12:-100",))


@pytest.mark.parametrize(
    ("body", "envelope", "says"),
    [
        ({"prompt": "春", "stream": True}, {}, "stream is not supported in a batch"),
        ({"prompt": "春", "echo": True}, {}, "echo is not supported"),
        ({"prompt": "春", "suffix": "x"}, {}, "suffix is not supported"),
        ({"prompt": "春", "logprobs": 0}, {}, "logprobs is not supported"),
        ({"prompt": "春", "best_of": 3}, {}, "best_of is not supported unless it equals n"),
        ({"prompt": "春", "max_tokens": 3, "max_completion_tokens": 3}, {}, "is given under two names"),
        ({"prompt": "春", "max_tokens": 0}, {}, "max_new_tokens must be at least 1"),
        ({"prompt": "春", "tools": []}, {}, "unknown setting 'tools'"),
        ({"messages": []}, {"url": "/v1/chat/completions"}, "url must be /v1/completions, not '/v1/chat/completions'"),
        ({"prompt": "春"}, {"method": "GET"}, "method must be POST"),
        ({"prompt": "春"}, {"prompt": "春"}, "'prompt' is no field of OpenAI's batch lines"),
        ("春", {}, 'needs "body", an object'),
        ({}, {}, 'needs "prompt"'),
        ({"prompt": ["春", "秋"]}, {}, "prompt must be one text"),
        ({"prompt": [1, "秋"]}, {}, "prompt must be one text"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_name(body: Any, envelope: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, InputError), match=says):
        asked(body, **envelope)
