"""Lines of a text that are kept while the others are written again."""

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpm_gen.config.options import TextOptions
from cpm_gen.errors import ConfigError
from cpm_gen.text.forms.check import check
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import Form
from cpm_gen.text.forms.kept import with_kept
from cpm_gen.text.forms.masks import FormMasks
from cpm_gen.text.forms.named import named
from cpm_gen.text.forms.notation import parse
from cpm_gen.text.forms.requested import requested_form, without_chapter_ends
from tests.text.forms.random_forms import forms
from tests.text.forms.test_masks import lexicon, random_tokens, read

POEM = ["白日依山尽，黄河入海流。", "欲穷千里目，更上一层楼。"]


def again(form: Form, kept: list[str | None], seed: int) -> list[str]:
    """The lines of another text that keeps these."""
    changed = with_kept(form, kept)
    assert parse(str(changed)) == changed  # a work is stored in its notation
    text = read(random_tokens(FormMasks(changed, lexicon()), seed))
    assert check(form, text) == []
    return text.strip("\n").split("\n")


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(forms(), st.integers(0, 1000), st.data())
def test_any_lines_of_a_random_form_are_kept(notation, seed, data):
    form = parse(notation)
    lines = read(random_tokens(FormMasks(form, lexicon()), seed)).strip("\n").split("\n")
    kept = [line if data.draw(st.booleans()) else None for line in lines]
    found = again(form, kept, seed + 1)
    assert all(line == old for line, old in zip(found, kept, strict=True) if old is not None)


@pytest.mark.parametrize("name", ["七绝", "浣溪沙", "如梦令"])
def test_each_line_of_a_named_form_is_kept_or_written_again(name):
    form = named(name)
    lines = read(random_tokens(FormMasks(form, lexicon()), 3)).strip("\n").split("\n")
    for at in range(len(lines)):
        only = [line if number == at else None for number, line in enumerate(lines)]
        assert again(form, only, 4)[at] == lines[at]
        others = [None if number == at else line for number, line in enumerate(lines)]
        found = again(form, others, 4)
        assert found[:at] + found[at + 1 :] == lines[:at] + lines[at + 1 :]


def test_a_character_that_stands_again_is_that_of_a_first_line_which_is_not_kept():
    form = parse("韵: 十三辙\n5a\n5a\n5a*\n5a*")
    lines = [None, "欲上最高楼", "明月照江州", "今夜望神州"]
    assert again(form, lines, 1)[0].endswith("州")
    with pytest.raises(FormError, match="line 4, column 5: 州 stands here again, not 头"):
        again(form, [*lines[:3], "今夜望江头"], 1)


def test_the_first_rhyme_word_of_a_line_that_stands_again_is_not_written_twice():
    form = parse("韵: 十三辙\n重字: 不可\n[主歌]\n5a\n[副歌]\n5a*\n[主歌] 重复")
    assert again(form, [None, "明月照江州", "今夜望神州"], 1)[0] == "今夜望神州"
    with pytest.raises(FormError, match="line 3, column 2: 月 stands twice"):
        again(form, [None, "明月照江州", "今月望神州"], 1)


def test_a_kept_line_settles_the_rhyme_of_those_before_it():
    form = parse("韵: 十三辙\n5a\n5a\n5a")
    for seed in range(10):
        found = again(form, [None, None, "明月照江楼"], seed)
        assert "楼" not in {found[0][-1], found[1][-1]}


def test_a_kept_line_that_repeats_another_decides_that_one():
    form = parse("[副歌]\n4-6a\n3，叠2\n[主歌]\n5a\n[副歌] 重复")
    kept = [None, None, None, "明月照人归", None]
    found = again(form, kept, 1)
    assert found[0] == found[3] == "明月照人归"
    found = again(form, [None, None, None, None, "江上月，上月"], 1)
    assert found[1] == found[4] == "江上月，上月"
    starred = again(parse("韵: 十三辙\n5a\n5a\n5a*"), [None, None, "明月照江村"], 1)
    assert starred[0][-1] == "村"


def test_a_kept_line_holds_the_required_word():
    form = dataclasses.replace(parse("5，5。\n5，5。"), required=("黄河",))
    assert with_kept(form, [POEM[0], None]).required == ()
    assert with_kept(form, [None, POEM[1]]).required == ("黄河",)


def test_a_kept_line_may_hold_a_part_of_a_word_that_is_not_wanted():
    form = parse("5，5。\n5，5。\n禁用: 黄昏")
    assert again(form, [POEM[0]], 1)[0] == POEM[0]
    with pytest.raises(FormError, match="keep_lines, line 1, column 7: 黄河 is not wanted"):
        with_kept(parse("5，5。\n5，5。\n禁用: 黄河"), [POEM[0]])


def test_the_lines_may_be_one_text():
    form = named("五绝")
    assert with_kept(form, ["\n" + POEM[1]]) == with_kept(form, [None, POEM[1]]) == with_kept(form, ["", POEM[1], ""])
    assert with_kept(form, ["\r\n" + POEM[1] + "\r\n\r\n"]) == with_kept(form, [None, POEM[1]])
    assert with_kept(form, ["", None]) == form


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (["白日依日尽，黄河入海流。"], "keep_lines, line 1, column 4: 日 is 仄; 平 stands here"),
        (["白日依山，黄河入海流。"], "keep_lines, line 1, column 1: 5 characters stand here, not 4"),
        ([POEM[0].replace("流", "天"), POEM[1]], "keep_lines, line 2, column 11: 楼 does not rhyme with 天 in 平水韵"),
        ([None, POEM[0], POEM[1]], "keep_lines, line 3: the form has 2 lines; this one is too many"),
        ([None, POEM[1].replace("目", "欲")], "keep_lines, line 2, column 5: 欲 stands twice"),
    ],
)
def test_a_line_that_does_not_fit_is_named(kept, message):
    with pytest.raises(FormError) as caught:
        with_kept(named("五绝"), kept)
    assert str(caught.value) == message


def test_what_the_vocabulary_or_another_line_does_not_allow_is_named():
    with pytest.raises(FormError) as caught:
        FormMasks(with_kept(parse("3\n2"), [None, "龘龘"]), lexicon())
    assert str(caught.value).startswith("keep_lines, line 2, column 1: the vocabulary has no token for 龘")
    with pytest.raises(FormError, match="keep_lines, line 2, column 1: 明 is given here, not 江"):
        with_kept(parse("「明」1\n叠2"), [None, "江上"])
    with pytest.raises(ConfigError, match="keep_lines belongs to a form; give form, too"):
        requested_form(TextOptions(keep_lines=("春",)))


def test_a_form_is_read_once_for_the_settings_that_it_has() -> None:
    asked = TextOptions(form="5，5。\n5，5。", include=("春",), keep_lines=(None, POEM[1]))
    form = requested_form(asked)
    assert requested_form(dataclasses.replace(asked, n=3, seed=5, style="lyric")) is form
    changes = {
        "form": "5，5。\n5，5。\n5",
        "rhyme_book": "十三辙",
        "acrostic": "春",
        "exclude": ("秋",),
        "keep_lines": (POEM[0],),
    }
    for name, value in changes.items():
        assert requested_form(dataclasses.replace(asked, **{name: value})) != form, name
    for _ in range(2):
        with pytest.raises(ConfigError, match="leave stop out"):
            requested_form(dataclasses.replace(asked, stop=("。",)))
        with pytest.raises(FormError, match="there is no form 五觉"):
            requested_form(dataclasses.replace(asked, form="五觉"))


@pytest.mark.parametrize(
    ("options", "forbidden"),
    [
        ({"form": "七律 平起", "exclude": ("春风",)}, ("春风", "下回分解")),
        ({"form": "7a。7a。"}, ("下回分解",)),
        ({"form": "七律", "include": ("下回分解",)}, ()),
        ({"form": "七律", "keep_lines": ("且听下回分解者，先生何以有之哉。",)}, ()),
        ({"form": "「且」「听」「下」「回」「分」「解」中。7a。7a。"}, ()),
    ],
)
def test_the_end_of_a_novels_chapter_is_asked_for_or_does_not_come(options: Any, forbidden: tuple[str, ...]) -> None:
    form = requested_form(TextOptions(**options))
    assert form is not None
    assert "下回分解" not in form.forbidden  # what is shown and stored is what was asked for
    written = without_chapter_ends(form)
    assert written.forbidden == forbidden
    assert without_chapter_ends(written) == written
