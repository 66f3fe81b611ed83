"""The masks of forms: any allowed tokens make a text that keeps to the form, and there is always one."""

import functools
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cpm_gen
from cpm_gen.checkpoints.locate import model_folder
from cpm_gen.sampling.constraints import state_after
from cpm_gen.text.cpm_tokenizer import Tokenizer
from cpm_gen.text.forms.check import check
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import Form
from cpm_gen.text.forms.lexicon import Lexicon
from cpm_gen.text.forms.masks import FormMasks
from cpm_gen.text.forms.named import named
from cpm_gen.text.forms.notation import parse
from tests.text.forms.random_forms import forms

assert cpm_gen


@functools.cache
def tokenizer() -> Tokenizer:
    return Tokenizer(model_folder(None))


@functools.cache
def lexicon() -> Lexicon:
    return Lexicon(tokenizer(), True, tokenizer().size, frozenset({tokenizer().unk or 0}))


def random_tokens(masks: FormMasks, seed: int) -> list[int]:
    """Tokens drawn evenly among the allowed ones until the form is complete; every other one, if it can be, from the forbidden words."""
    draw, state, tokens = random.Random(seed), masks.begin(), []
    wanted = of_characters(frozenset("".join(masks.form.forbidden)))
    while not masks.finished(state):
        ids = masks.allowed(state)
        assert len(ids), f"a dead end: {masks.form} {read(tokens)}"
        assert (np.diff(ids) > 0).all()
        near = np.intersect1d(ids, wanted) if draw.random() < 0.5 else ids
        tokens.append(int(draw.choice(near if len(near) else ids)))
        state = masks.advance(state, tokens[-1])
    return tokens


@functools.cache
def of_characters(characters: frozenset[str]) -> list[int]:
    """Tokens that hold one of these characters."""
    return sorted({int(i) for c in characters for i in lexicon().containing.get(c, ())})


def read(tokens: list[int]) -> str:
    return tokenizer().decode(tokens).replace("<eod>", "\n")


def test_a_token_whose_word_settles_a_particles_tone_is_a_rhyme():
    ending = lexicon().sounds("中华通韵", False, False).ending
    rhymes = {lexicon().texts[int(i)] for ids in ending.values() for i in ids}
    assert "天地" in rhymes
    assert not {"地", "得", "的", "了", "听得", "他的"} & rhymes


def keeps(form: Form, seed: int) -> None:
    masks = FormMasks(form, lexicon())
    text = read(random_tokens(masks, seed))
    assert not check(form, text), (str(form), text)
    assert not any(word in text for word in form.forbidden), (str(form), text)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(forms(), st.integers(0, 1000))
def test_a_random_form_is_completed_by_any_allowed_tokens(text, seed):
    keeps(parse(text), seed)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(forms(), st.integers(0, 1000))
def test_a_thousand_random_forms_are_completed(text, seed):
    keeps(parse(text), seed)


@pytest.mark.parametrize(
    "name", ["五绝 仄起", "七律 平起入韵", "五排 40", "浣溪沙", "菩萨蛮", "如梦令", "竹枝", "醉妆词", "莺啼序"]
)
def test_a_named_form_is_completed_by_any_allowed_tokens(name):
    for seed in range(3):
        keeps(named(name), seed)


def test_the_state_is_a_function_of_the_tokens():
    masks = FormMasks(named("浣溪沙"), lexicon())
    tokens = random_tokens(masks, 7)
    state = masks.begin()
    for at, token in enumerate(tokens):
        again = state_after(FormMasks(named("浣溪沙"), lexicon()), tokens[:at])
        assert again == state
        assert (masks.allowed(again) == masks.allowed(state)).all()
        state = masks.advance(state, token)
    assert masks.finished(state)
    assert len(masks.allowed(state)) == 0


def test_no_token_spans_a_word_boundary():
    masks = FormMasks(parse("1+1+1+1"), lexicon())
    tokens = random_tokens(masks, 1)
    assert [len(tokenizer().surface(i)) for i in tokens] == [1, 1, 1, 1]


def test_required_words_and_heads_are_in_the_text():
    form = parse("体: 五律\n藏头: 春江花月夜\n必含: 黄昏, 相思")
    for seed in range(5):
        text = read(random_tokens(FormMasks(form, lexicon()), seed))
        clauses = text.replace("，", "\n").replace("。", "").split("\n")
        assert "".join(c[0] for c in clauses[:5]) == "春江花月夜"
        assert "黄昏" in text and "相思" in text


def test_a_repeated_section_has_its_text_again():
    form = parse("[副歌]\n4-8a\n7，叠3，5a\n[主歌]\n5\n[副歌] 重复")
    for seed in range(5):
        lines = read(random_tokens(FormMasks(form, lexicon()), seed)).split("\n")
        assert lines[3:] == lines[:2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("「㐀」5", "form, line 1, column 1: between 「 and 」 stand Chinese characters"),
        ("「龘」5", "form, line 1, column 2: the vocabulary has no token for 龘"),
        ("5「春」a\n5「风」a", 'form, line 2, column 3: 春 and 风 of rhyme "a" do not rhyme in 中华通韵'),
        ("韵: 平水韵, a=江\n" + "5平a\n" * 80, 'form, line 81, column 2: rhyme "a" has 80 words'),
        ("5\n必含: 黄昏, 龘月", "form, line 2, column 9: 必含 龘月: the vocabulary has no token for 龘"),
        ("藏头: 一龘\n5\n5", "form, line 1, column 6: the vocabulary has no token for 龘"),
        ("必含: 黄昏\n仄仄", "form, line 1, column 5: 必含 黄昏 fits into no line"),
        ("禁用: 明\n「明」5", "form, line 2, column 2: 明 is given and 禁用 has 明"),
        ("禁用: 明月\n2「江」1「明」+「月」5", "form, line 2, column 7: 明月 is given and 禁用 has 明月"),
        ("禁用: 人人\n5\n2「人」+叠1", "form, line 3, column 3: 人人 is given and 禁用 has 人人"),
        ("5\n必含: 黄昏, 明月\n禁用: 月", "form, line 2, column 10: 明月 is given and 禁用 has 月"),
        ("必含: 明月\n禁用: 月江\n「江」2「江」", "form, line 1, column 5: 必含 明月 fits into no line"),
        ("重字: 不可\n" + "40\n" * 50, "form: 重字: 不可 wants up to 2000 characters"),
    ],
)
def test_a_form_that_cannot_be_filled_is_refused(text, message):
    with pytest.raises(FormError) as caught:
        FormMasks(parse(text), lexicon())
    assert str(caught.value).startswith(message)
