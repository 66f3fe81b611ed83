"""logit_bias: how it is declared, and what it does to logits."""

import numpy as np
import pytest

import cpm_gen
from cpm_gen.config.options import SamplingParams
from cpm_gen.config.resolve import resolve
from cpm_gen.errors import ConfigError
from cpm_gen.sampling.penalties import penalise
from cpm_gen.sampling.sample import Draw

LOGITS = np.array([0.5, 3.0, -1.0, 2.0], dtype=np.float32)


def test_biases_are_added_and_the_logits_stay_as_they_are():
    before = LOGITS.copy()
    adjusted = penalise(LOGITS, SamplingParams(logit_bias=("1:-100", "2:4.5", "9:3")), context=[1], written=[1])
    assert adjusted.tolist() == [0.5, -97.0, 3.5, 2.0]
    assert np.array_equal(LOGITS, before)


def test_a_bias_decides_a_greedy_choice():
    def choose(*bias: str) -> int:
        params = SamplingParams(temperature=0, logit_bias=bias)
        return Draw(params, [0], [], (), seed=1, sample_index=0, step=0).choose(LOGITS)

    assert (choose(), choose("1:-2"), choose("0:100")) == (1, 3, 0)


def test_flags_keywords_and_objects_say_the_same():
    expected = ("5:-1.5", "7:2")
    assert resolve(flags={"logit_bias": ["5:-1.5", "7:2"]}).sampling.logit_bias == expected
    assert resolve(flags={"logit_bias": {5: -1.5, "7": 2}}).sampling.logit_bias == expected


@pytest.mark.parametrize(
    "entry", ["5", "5:", "x:1", "-1:1", "5:101", "5:-100.5", "5:nan", "5:inf", "5: 1", "9999999999:1", ""]
)
def test_what_is_no_bias_is_refused(entry):
    with pytest.raises(ConfigError, match="logit_bias must"):
        SamplingParams(logit_bias=(entry,))


def test_the_library_takes_an_object():
    with cpm_gen.load() as llm:
        plain = llm.generate("春", max_new_tokens=8, temperature=0.0)
        first = plain.token_ids[0]
        other = llm.generate("春", max_new_tokens=8, temperature=0.0, logit_bias={first: -100})
        assert first not in other.token_ids[:1]
        with pytest.raises(cpm_gen.InputError, match="2000000"):
            llm.generate("春", logit_bias={2_000_000: 1})
