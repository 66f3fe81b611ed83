"""The stored form of a work's parameters: what was written is read, by this version and by later ones."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpm_gen.config.options import SamplingParams
from cpm_gen.works.errors import UnreadableWork
from cpm_gen.works.spec import VERSION, WindowSpec, WorkSpec

BIG = 2**53 - 1
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
WINDOWS = st.builds(
    WindowSpec, hop=st.integers(1), boundary=st.sampled_from(["token", "sentence", "eod"]), keep=st.integers(0)
)
SPECS = st.builds(
    WorkSpec,
    seed=st.integers(0, 2**64),
    window=WINDOWS,
    style=st.sampled_from(["lyric", "novel", "plain"]),
    decoder=st.sampled_from(["cached", "recompute"]),
    n=st.integers(1),
    max_new_tokens=st.none() | st.integers(1),
    stop=st.lists(TEXTS).map(tuple),
    stop_at_eod=st.booleans(),
    truncate_prompt=st.booleans(),
    story=st.none() | TEXTS,
    banned_ids=st.lists(st.integers(0)).map(tuple),
    **dict.fromkeys(
        (
            "temperature",
            "top_p",
            "min_p",
            "repetition_penalty",
            "presence_penalty",
            "frequency_penalty",
            "dry_multiplier",
            "dry_base",
        ),
        FLOATS,
    ),
    **dict.fromkeys(("top_k", "no_repeat_ngram", "min_new_tokens", "dry_allowed_length"), st.integers(0)),
)
# what version 1 stored: the body of POST /works within its bounds, and the seed, the decoder and the window in use
VERSION_1 = {
    "temperature": st.floats(0, 100),
    "top_k": st.integers(0, 2**31 - 1),
    "top_p": st.floats(0, 1),
    "min_p": st.floats(0, 1),
    "repetition_penalty": st.floats(0.01, 100),
    "presence_penalty": st.floats(-100, 100),
    "frequency_penalty": st.floats(-100, 100),
    "no_repeat_ngram": st.integers(0, 1024),
    "min_new_tokens": st.integers(0, 2**31 - 1),
    "banned_ids": st.lists(st.integers(0, 2**31 - 1), max_size=20),
    "style": st.sampled_from(["lyric", "novel", "plain"]),
    "decoder": st.sampled_from(["cached", "recompute"]),
    "n": st.integers(1, 1024),
    "stop": st.lists(TEXTS, max_size=8),
    "stop_at_eod": st.booleans(),
    "truncate_prompt": st.booleans(),
    "max_new_tokens": st.none() | st.integers(1, BIG),
}
NEEDED = {
    "seed": st.integers(0, BIG),
    "window": st.fixed_dictionaries(
        {
            "hop": st.integers(1, 500),
            "boundary": st.sampled_from(["token", "sentence", "eod"]),
            "keep": st.integers(0, 500),
        }
    ),
}
DUMPS = st.fixed_dictionaries(NEEDED | VERSION_1)
PARTIAL_DUMPS = st.fixed_dictionaries(NEEDED, optional=VERSION_1)
DEFAULTS = WorkSpec(seed=1, window=WindowSpec(hop=1))
STORED: dict[str, Any] = {"version": 1, "seed": 7, "window": {"hop": 255}}


def stored(spec: WorkSpec) -> Any:
    return json.loads(json.dumps(spec.write()))


@settings(deadline=None)
@given(SPECS)
def test_a_spec_is_read_as_it_was_written(spec: WorkSpec):
    assert WorkSpec.read(stored(spec)) == spec
    assert stored(spec)["version"] == VERSION


@settings(deadline=None)
@given(DUMPS)
def test_all_that_version_1_stored_is_read_and_can_be_generated(dump: dict[str, Any]):
    spec = WorkSpec.read(json.loads(json.dumps(dump)))
    written = stored(spec)
    del written["version"]
    since = {name: value for name, value in stored(DEFAULTS).items() if name not in (*dump, "version")}
    assert written == since | dump  # fields of later versions have their defaults
    for name in (field.name for field in dataclasses.fields(SamplingParams)):
        assert getattr(spec.sampling(), name) == getattr(spec, name)
    text = spec.text(spec.max_new_tokens)
    assert (text.seed, text.n, list(text.stop)) == (dump["seed"], dump["n"], dump["stop"])


@settings(deadline=None)
@given(PARTIAL_DUMPS)
def test_missing_fields_get_their_defaults(dump: dict[str, Any]):
    spec = WorkSpec.read(dump)
    for name in VERSION_1:
        value = getattr(spec, name)
        assert (list(value) if isinstance(value, tuple) else value) == dump.get(name, stored(DEFAULTS)[name])


@settings(deadline=None)
@given(SPECS, st.text(), st.none() | st.integers() | st.text() | st.lists(st.integers()))
def test_an_unknown_field_is_refused_by_name(spec: WorkSpec, name: str, value: object):
    if name in stored(spec):
        return
    with pytest.raises(UnreadableWork) as caught:
        WorkSpec.read(stored(spec) | {name: value})
    assert caught.value.field == f"parameters.{name}" or not name
    with pytest.raises(UnreadableWork):
        WorkSpec.read(stored(spec) | {"window": stored(spec)["window"] | {name + "_": value}})


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"version": VERSION + 1}, "parameters.version", "newer cpm-gen"),
        ({"version": 0}, "parameters.version", "whole number"),
        ({"version": True}, "parameters.version", "whole number"),
        ({"version": "2"}, "parameters.version", "whole number"),
        ({"seed": None}, "parameters.seed", "whole number"),
        ({"seed": 1.5}, "parameters.seed", "whole number"),
        ({"seed": True}, "parameters.seed", "whole number"),
        ({"temperature": "hot"}, "parameters.temperature", "number"),
        ({"temperature": float("nan")}, "parameters.temperature", "number"),
        ({"stop": "。"}, "parameters.stop", "list"),
        ({"banned_ids": [1, "2"]}, "parameters.banned_ids.1", "whole number"),
        ({"style": "haiku"}, "parameters.style", "lyric"),
        ({"window": None}, "parameters.window", "object"),
        ({"window": {}}, "parameters.window.hop", "missing"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_field_and_the_reason(change: dict[str, Any], field: str, says: str):
    with pytest.raises(UnreadableWork, match=says) as caught:
        WorkSpec.read(STORED | change)
    assert caught.value.field == field


@pytest.mark.parametrize("content", [None, [], "x", 7, {1: 2}, {"seed": object()}])
def test_what_is_no_object_of_json_is_refused(content: object):
    with pytest.raises(UnreadableWork):
        WorkSpec.read(content)


def test_a_missing_seed_or_window_has_no_default():
    for name in ("seed", "window"):
        with pytest.raises(UnreadableWork, match=f"{name}: missing"):
            WorkSpec.read({k: v for k, v in STORED.items() if k != name})


def test_every_sampling_parameter_is_stored():
    names = {field.name for field in dataclasses.fields(WorkSpec)}
    assert {field.name for field in dataclasses.fields(SamplingParams)} <= names, "add the new ones to WorkSpec"
