"""The DRY penalty against its definition written out, and as a pure function of the text."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cpm_gen
from cpm_gen.config.options import DRY_HISTORY, DRY_LONGEST, SamplingParams, TextOptions
from cpm_gen.engine.window import Window
from cpm_gen.sampling.dry import SuffixMatches, dry_penalties
from cpm_gen.sampling.penalties import penalise

DRY = SamplingParams(temperature=0.9, top_k=50, dry_multiplier=0.8)


def defined(text: list[int], params: SamplingParams) -> dict[int, float]:
    """Each place of the text, compared backwards with its end."""
    text = text[-DRY_HISTORY:]
    longest: dict[int, int] = {}
    for at in range(1, len(text)):
        length = 0
        while length < min(at, DRY_LONGEST) and text[at - 1 - length] == text[len(text) - 1 - length]:
            length += 1
        longest[text[at]] = max(length, longest.get(text[at], 0))
    least = params.dry_allowed_length
    return {
        token: params.dry_multiplier * params.dry_base ** (length - least)
        for token, length in longest.items()
        if length >= least
    }


def computed(text: list[int], params: SamplingParams) -> dict[int, float]:
    ids, amounts = dry_penalties(text, params)
    assert len(set(ids.tolist())) == len(ids)
    return dict(zip(ids.tolist(), amounts.tolist(), strict=True))


# few different tokens, and repeated parts: texts in which much matches
TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=9), max_size=12).flatmap(
    lambda parts: st.lists(st.sampled_from(parts), max_size=30) if parts else st.just([])
)


@settings(deadline=None)
@given(TEXTS, st.integers(1, 6), st.sampled_from([1.0, 1.75, 3.0]))
def test_penalties_are_those_of_the_definition(parts, allowed, base):
    text = [token for part in parts for token in part]
    params = SamplingParams(dry_multiplier=0.7, dry_base=base, dry_allowed_length=allowed)
    assert computed(text, params) == pytest.approx(defined(text, params))


@pytest.mark.parametrize("allowed", [1, 2, 50])
@pytest.mark.parametrize("kinds", ["one", "two", "period", "runs", "refrain"])
def test_long_repetitive_texts_have_the_penalties_of_the_definition(kinds, allowed):
    dice = np.random.default_rng(7)
    line = dice.integers(5, 90, 30).tolist()
    text = {
        "one": [3] * 2500,
        "two": dice.integers(0, 2, 2500).tolist(),
        "period": (line * 90)[:2500],
        "runs": ([1] * 40 + [2]) * 60,
        "refrain": [token for i in range(900) for token in (1, 2, 100 + i % 7)],
    }[kinds]
    params = SamplingParams(dry_multiplier=0.5, dry_allowed_length=allowed)
    assert computed(text, params) == pytest.approx(defined(text, params))


def penalties_of(matches: SuffixMatches, params: SamplingParams) -> dict[int, float]:
    ids, amounts = dry_penalties(matches, params)
    assert (np.diff(ids) > 0).all()
    return dict(zip(ids.tolist(), amounts.tolist(), strict=True))


@settings(deadline=None)
@given(TEXTS, st.lists(st.integers(1, 70), max_size=40), st.integers(1, 4))
def test_a_text_that_grows_has_the_penalties_of_the_whole_text(parts, cuts, allowed):
    text = [token for part in parts for token in part]
    params = SamplingParams(dry_multiplier=0.7, dry_allowed_length=allowed)
    matches, end = SuffixMatches(), 0
    for cut in [*cuts, len(text)]:
        end = min(end + cut, len(text))
        matches.extend(text[:end])
        assert penalties_of(matches, params) == pytest.approx(defined(text[:end], params))


@pytest.mark.parametrize("start", [0, 19_990, 30_000])
def test_a_text_that_grows_beyond_what_is_looked_at_has_the_penalties_of_a_new_one(start):
    """Tokens one by one, some at once, and more than are looked at."""
    dice = np.random.default_rng(3)
    text = np.where(dice.random(90_000) < 0.2, dice.integers(0, 9, 90_000), np.arange(90_000) % 41).tolist()
    text[20_000:20_100] = text[:100]  # passages whose first occurrence is about to be too far back
    params = SamplingParams(dry_multiplier=0.5, dry_base=1.2, dry_allowed_length=1)
    matches = SuffixMatches(text[:start])
    ends = [*range(start + 1, start + 130), start + 200, start + 20_150, start + 20_151, start + 45_000, 90_000]
    for end in ends:
        matches.extend(text[:end])
        assert penalties_of(matches, params) == computed(text[:end], params)
    assert penalties_of(matches, params) == pytest.approx(defined(text, params))


def test_tokens_that_one_token_follows_10_000_times_have_the_penalties_of_the_definition():
    half = DRY_HISTORY // 2
    for text in (
        [*(token for i in range(half - 1) for token in (5, 6 + i)), 5],  # each of 10,000 tokens once
        [0, 1] * half,
        [3] * DRY_HISTORY,
        [3] * (DRY_HISTORY - 40) + [4, 3] * 20,
        np.random.default_rng(0).integers(0, 2, DRY_HISTORY).tolist(),
    ):
        params = SamplingParams(dry_multiplier=1, dry_base=1.1, dry_allowed_length=1)
        assert computed(text, params) == pytest.approx(defined(text, params))


def test_the_example_of_its_inventor():
    # "... A B C D ... A B C": D would repeat three tokens
    assert computed([1, 2, 3, 4, 9, 1, 2, 3], SamplingParams(dry_multiplier=0.8)) == {4: pytest.approx(0.8 * 1.75)}
    assert computed([1, 2, 3, 4, 9, 1, 2], SamplingParams(dry_multiplier=0.8)) == {3: pytest.approx(0.8)}
    assert computed([1, 2, 3, 4, 9, 1], SamplingParams(dry_multiplier=0.8)) == {}


def test_a_passage_counts_up_to_its_greatest_length_and_within_the_history():
    _, lengths = SuffixMatches([0] * 500).longest(2)
    assert lengths.tolist() == [DRY_LONGEST]
    beyond = [1, 2, 3, *range(100, 100 + DRY_HISTORY - 2), 1, 2]
    assert computed(beyond, SamplingParams(dry_multiplier=1)) == {}
    within = [1, 2, 3, *range(100, 100 + DRY_HISTORY - 5), 1, 2]
    assert computed(within, SamplingParams(dry_multiplier=1)) == {3: 1.0}


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40))
def test_off_changes_no_logit(text):
    logits = np.arange(6, dtype=np.float32)
    assert penalise(logits, SamplingParams(dry_base=3, dry_allowed_length=1), text, text, history=text) is logits


def test_a_penalty_is_added_to_the_others_and_bans_stay():
    params = SamplingParams(presence_penalty=1, dry_multiplier=2, dry_allowed_length=1, banned_ids=(4,))
    got = penalise(np.zeros(6), params, [], written=[2], history=[2, 3, 2])
    assert got.tolist() == [0, 0, -1, -2, -np.inf, 0]


@pytest.fixture(scope="module")
def llm():
    with cpm_gen.load(window_limit=40) as llm:
        yield llm


def ids_of(llm: cpm_gen.LLM, texts: list[str], sampling: SamplingParams, **other: object) -> list[list[int]]:
    text = TextOptions(style="lyric", max_new_tokens=150, seed=5, **other)  # type: ignore[arg-type]
    written: dict[int, list[int]] = {}
    for chunk in llm.engine.run([llm.encode(t, "lyric") for t in texts], sampling, text):
        written.setdefault(chunk.prompt, []).extend(chunk.token_ids)
    return [written[at] for at in sorted(written)]


def test_a_text_repeats_less_and_looks_beyond_its_window(llm):
    greedy = SamplingParams(temperature=0)

    def repeats(ids: list[int]) -> int:
        grams = [tuple(ids[i : i + 4]) for i in range(len(ids) - 3)]
        return len(grams) - len(set(grams))

    [plain] = ids_of(llm, ["春江潮水连海平，"], greedy)
    [dry] = ids_of(llm, ["春江潮水连海平，"], SamplingParams(temperature=0, dry_multiplier=5, dry_base=4))
    assert len(plain) == len(dry) == 150
    assert repeats(dry) < repeats(plain)


@pytest.mark.parametrize("window", [Window(40, 13), Window(40, 9, keep=5)], ids=str)
def test_recomputing_writes_the_same_text(llm, window):
    text = TextOptions(max_new_tokens=90, seed=3)
    ids = []
    for recompute in (False, True):
        requests = llm.engine.requests([llm.encode("从前")], DRY, text, window=window, recompute=recompute)
        [writer] = writers = llm.engine.begin(requests, text, ready := deque())
        while not writer.done:
            llm.engine.step()
        llm.engine.end(writers)
        ids.append([i for chunk in ready for i in chunk.token_ids])
    assert ids[0] == ids[1]
