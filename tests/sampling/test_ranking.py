"""The rank of candidates for a sentence: a pure function, and what it prefers."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpm_gen.sampling.ranking import Sentences, choose_sentence, mean_logprob, own_score, parents, score, shared
from cpm_gen.sampling.sample import uniform

HAN = st.text(st.sampled_from("明月几时有把酒问青天不知上宫阙"), min_size=1, max_size=20)
LOGPROBS = st.floats(-200, 0)
CANDIDATES = st.lists(st.tuples(HAN, LOGPROBS), min_size=1, max_size=8)


@given(CANDIDATES, HAN, st.randoms())
def test_scores_do_not_depend_on_the_order_of_the_candidates(
    candidates: list[tuple[str, float]], earlier: str, dice: random.Random
) -> None:
    texts, logprobs = [t for t, _ in candidates], [p for _, p in candidates]
    scores = score(texts, logprobs, earlier)
    order = list(range(len(candidates)))
    dice.shuffle(order)
    assert score([texts[i] for i in order], [logprobs[i] for i in order], earlier) == [scores[i] for i in order]


@given(st.integers(1, 20), st.lists(LOGPROBS, min_size=2, max_size=8))
def test_of_sentences_of_one_length_without_earlier_lines_the_likeliest_is_kept(
    length: int, logprobs: list[float]
) -> None:
    tokens = [[number] * length for number in range(len(logprobs))]
    sentences = Sentences(lambda ids: "".join(chr(0x4E00 + i) for i in ids), frozenset())
    kept = choose_sentence(sentences, tokens, logprobs, []).kept
    assert logprobs[kept] >= max(logprobs) - 1e-3 * (length + 8)  # scores are rounded


@given(HAN, LOGPROBS, st.integers(2, 8))
def test_of_equal_candidates_the_first_is_kept(text: str, logprob: float, count: int) -> None:
    sentences = Sentences(lambda ids: "".join(map(chr, ids)), frozenset())
    tokens = [list(map(ord, text))] * count
    choice = choose_sentence(sentences, tokens, [logprob] * count, [])
    assert choice.kept == 0
    assert len({c.score for c in choice.candidates}) == 1


@given(LOGPROBS)
def test_characters_of_earlier_lines_cost_and_their_signs_do_not(logprob: float) -> None:
    old, half, new, sign = score(["明月，", "明酒，", "把酒，", "把酒。"], [logprob] * 4, "几时有明月，")
    assert old < half < new == sign
    assert new - old == pytest.approx(2 * (new - half), abs=2e-3)


@given(CANDIDATES, HAN, st.data())
def test_a_line_that_is_behind_before_its_end_does_not_win_at_its_end(
    candidates: list[tuple[str, float]], earlier: str, data: st.DataObject
) -> None:
    texts, logprobs = [(t * 20)[:7] for t, _ in candidates], [p for _, p in candidates]
    sentences = Sentences(lambda ids: "".join(map(chr, ids)), frozenset())
    tokens = [list(map(ord, text)) for text in texts]
    kept = choose_sentence(sentences, tokens, logprobs, list(map(ord, earlier))).kept
    best = own_score(logprobs[kept], 7, shared(texts[kept], earlier))
    far = [data.draw(st.floats(p, 0)) for p in logprobs]  # before their ends
    behind = [own_score(so_far, 7, 0.0) < best for so_far in far]
    assert not behind[kept]
    partial = [so_far if late else p for so_far, late, p in zip(far, behind, logprobs, strict=True)]
    again = choose_sentence(sentences, tokens, partial, list(map(ord, earlier)), [not late for late in behind])
    assert again.kept == kept


@given(st.lists(st.tuples(HAN, LOGPROBS), min_size=1, max_size=16), st.data())
def test_in_the_middle_of_a_line_at_most_half_go_on_from_others_and_these_from_themselves(
    candidates: list[tuple[str, float]], data: st.DataObject
) -> None:
    sentences = Sentences(lambda ids: "".join(map(chr, ids)), frozenset())
    texts, logprobs = zip(*candidates, strict=True)
    left = [data.draw(st.integers(0, 9)) for _ in texts]
    found = parents(sentences, [list(map(ord, t)) for t in texts], logprobs, left, [])
    moved = [at for at, parent in enumerate(found) if parent != at]
    assert found[0] == 0 and len(moved) <= len(found) // 2
    assert all(found[parent] == parent for parent in found)


def test_in_the_middle_of_a_line_the_likeliest_by_the_character_are_ahead() -> None:
    sentences = Sentences(lambda ids: "".join(map(chr, ids)), frozenset())
    tokens = [list(map(ord, text)) for text in ("明月", "几时", "有把酒", "问青天")]
    logprobs, left = [-9.0, -4.0, -5.0, -9.5], [3, 3, 2, 2]
    # the order is 2, 1, 3, 0, since what is left costs 2.75 a character; then 1, 3, 0, 2, since all of 2 stands before; then 2, 3, 0, 1
    assert parents(sentences, tokens, logprobs, left, []) == [0, 1, 2, 2]
    assert parents(sentences, tokens, logprobs, left, list(map(ord, "有把酒"))) == [0, 1, 1, 3]
    assert parents(sentences, tokens, [-4.0] * 4, [0] * 4, []) == [0, 2, 2, 3]


def test_a_few_characters_do_not_win_by_luck() -> None:
    # a blank line, two characters that are likely by themselves, and a sentence that is likelier than most
    scores = score(["\n", "明月", "几时有把酒问青天不知"], [-1.0, -3.0, -15.0], "")
    assert max(scores) == scores[2]


def test_the_mean_counts_characters_and_signs_but_no_line_ends() -> None:
    assert mean_logprob(-6.0, "明月，\n") == -2.0
    assert mean_logprob(-6.0, "") == -6.0


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**16), st.integers(0, 2**40))
def test_candidate_0_draws_the_numbers_of_a_text_without_candidates(seed: int, sample: int, step: int) -> None:
    numbers = [uniform(seed, sample, step, candidate) for candidate in range(16)]
    assert numbers[0] == uniform(seed, sample, step)
    assert len(set(numbers)) == 16
