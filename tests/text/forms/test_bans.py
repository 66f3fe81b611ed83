"""Forbidden words beside given characters, 叠 and ``a*``: none comes about, and there is always a next token.

The draws prefer characters of the forbidden words, which would otherwise hardly meet.
"""

import re
from typing import Any

import pytest

from cpm_gen.config.options import TextOptions
from cpm_gen.sampling.constraints import state_after
from cpm_gen.text.forms.check import check
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import Form
from cpm_gen.text.forms.masks import FormMasks
from cpm_gen.text.forms.notation import parse
from cpm_gen.text.forms.passage import passage
from cpm_gen.text.forms.passage_masks import PassageMasks
from cpm_gen.text.forms.requested import compiled, requested_form
from tests.text.forms.test_masks import lexicon, random_tokens, read

verse = pytest.importorskip("tests.verse", reason="pypinyin is not installed")
OTHER = re.compile(
    "rhyme|is not [平仄]|twice"
)  # how characters are read, and given ones that stand twice, is no matter here


def masks_of(form: Form) -> FormMasks:
    return compiled(form, lambda changed: FormMasks(changed, lexicon()))


def keeps(masks: FormMasks, seeds: int) -> None:
    """Write texts, and have them checked by the library and by a checker that has no part of it."""
    form = masks.form
    fixed = all(part.least == part.most for line in form.lines() for part in line.parts)
    for seed in range(seeds):
        text = read(random_tokens(masks, seed)).strip("\n")
        assert not any(word in text for word in form.forbidden), text
        assert check(form, text) == []
        assert not fixed or [fault for fault in verse.violations(form, text) if not OTHER.search(fault)] == []


@pytest.mark.parametrize(
    "options",
    [
        {"form": "五绝", "acrostic": "月下花香"},
        {"form": "五绝", "include": ("月下",)},
        {"form": "七律", "include": ("月下", "分明"), "acrostic": "解回下分山水风云"},
        {"form": "五绝", "acrostic": "春江花月", "exclude": ("春风", "月江", "花月")},
        {"form": "浣溪沙", "include": ("月下",), "exclude": ("明月", "下楼", "人月下")},
        {"form": "「月下」5a\n7a\n「下」6\n1「分」5"},
    ],
    ids=str,
)
def test_a_given_character_of_a_forbidden_word_is_no_hindrance(options: dict[str, Any]) -> None:
    form = requested_form(TextOptions(**options))
    assert form is not None
    masks = masks_of(form)
    assert "下回分解" in masks.form.forbidden
    keeps(masks, 20)


@pytest.mark.parametrize(
    "notation",
    [
        "禁用: 相思\n5a\n5a*",
        "禁用: 相思, 思相, 人人\n1a\n「相」1a*\n1a*+「人」",
        "禁用: 相思, 相人\n3-5a\n「相」1a*\n4-6a*",
        "禁用: 人人\n1+叠1",
        "禁用: 相思, 人人, 思相思\n2+叠2",
        "禁用: 相思, 思人, 相思人\n3+叠2+叠2",
        "禁用: 思月, 相思月, 月人\n2，叠2+「月」2",
        "禁用: 相思, 思月人\n2，叠1+「月」1+叠1",
        "禁用: 人月, 月人, 月相月\n1「月」1「月」2",
        "禁用: 思月, 月月, 人月思人\n2「月」1「人」",
        "禁用: 人人, 相思\n[副歌]\n1+叠1\n「相」1\n[主歌]\n1+「思」\n[副歌] 重复",
        "禁用: 一二三四五六七八九十\n「一二三四五六七八九」2",
        "禁用: 一二三四五六七八九十百千\n「一二三四五」5「百千」",
        "禁用: 相思, 思相\n必含: 相\n1+1\n1+叠1",
    ],
    ids=lambda notation: notation.replace("\n", " "),
)
def test_a_word_that_ends_without_a_choice_is_avoided_before(notation: str) -> None:
    keeps(FormMasks(parse(notation), lexicon()), 60)


def test_only_what_leads_to_a_word_is_barred() -> None:
    masks, single = FormMasks(parse("禁用: 相思\n2「思」"), lexicon()), lexicon().single
    assert single["相"] in masks.allowed(masks.begin())
    after = masks.allowed(masks.advance(masks.begin(), single["相"]))
    assert single["相"] not in after and single["人"] in after


def test_a_line_of_several_lengths_does_not_end_with_what_would_lead_to_a_word() -> None:
    masks, single = FormMasks(parse("禁用: 相思\n3-5a\n1「相」+1a*"), lexicon()), lexicon().single
    ends = set(map(int, lexicon().signs["\n"]))
    for last, may_end in (("思", False), ("山", True)):
        state = state_after(masks, [single[c] for c in f"人水{last}"])
        assert bool(ends & set(map(int, masks.allowed(state)))) is may_end


def test_a_passage_makes_no_word_with_the_text_around_it() -> None:
    form, single = parse("禁用: 月下, 相思, 人思, 人相\n「月」2\n2「思」"), lexicon().single
    for at, barred, fitting in ((1, "下", "人"), (5, "相人", "下")):
        masks = PassageMasks(passage(form, "月明白\n花山思", at, at + 1), lexicon())
        ids = masks.allowed(masks.begin())
        assert single[fitting] in ids
        assert not any(single[c] in ids for c in barred)
    masks = PassageMasks(passage(form, "月明白\n花山思", 4, 6), lexicon())
    after = masks.allowed(masks.advance(masks.begin(), single["人"]))
    assert not any(single[c] in after for c in "相人") and single["下"] in after


def test_what_nobody_forbade_is_no_hindrance() -> None:
    assert masks_of(parse("「下」+1「分解」3")).form.forbidden == ("下回分解",)
    for notation in ("「下回」+「分解」2", "「分解下回」+叠4"):  # it stands there anyway
        form = parse(notation)
        assert masks_of(form).form == form


def test_a_word_that_is_too_long_is_refused_with_its_setting() -> None:
    with pytest.raises(FormError, match="exclude: 春春春春春春春春春春… has 41 characters; the most are 40"):
        requested_form(TextOptions(form="五绝", exclude=("春" * 41,)))


def test_many_words_are_kept_out() -> None:
    lexicon().sounds("中华通韵", False, False)
    words = ", ".join(f"{a}{b}" for a in "春江花月夜明相思人山" for b in "水云风雨雪日天地心情空白红绿黄青上下中间")
    form = parse(f"禁用: {words}\n" + "「春」2「水」+叠2，「江」3「云」\n" * 100)
    keeps(FormMasks(form, lexicon()), 1)
