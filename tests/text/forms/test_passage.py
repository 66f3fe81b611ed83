"""A passage of a text in a form: its slots, and what the text around it settles."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpm_gen.errors import InputError
from cpm_gen.text.forms.check import check
from cpm_gen.text.forms.form import Form
from cpm_gen.text.forms.masks import FormMasks
from cpm_gen.text.forms.named import named
from cpm_gen.text.forms.notation import parse
from cpm_gen.text.forms.passage import Passage, line_end, passage
from cpm_gen.text.forms.passage_masks import PassageMasks, PassageReader
from tests.text.forms.random_forms import forms
from tests.text.forms.test_masks import lexicon, random_tokens, read

POEM = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"  # 五绝
LONG = "危楼高百尺，手可摘星流。\n不敢多声语，恐惊山上牛。\n一年春又到，万里客何愁。\n夜静人归去，江南月满舟。"
SONG = "[主歌]\n4-6a，3\n5a\n[副歌]\n2，叠2\n5a"


def written(found: Passage, seed: int) -> str | None:
    """What random tokens make of a passage."""
    masks = PassageMasks(found, lexicon())
    reader, draw, state = PassageReader(masks), random.Random(seed), masks.begin()
    while not masks.finished(state):
        token = int(draw.choice(masks.allowed(state)))
        state = masks.advance(state, token)
        reader.push(token)
    cut = reader.cut()
    return None if cut is None else cut.text


def ends(form: Form, text: str, line: int) -> set[str]:
    masks = PassageMasks(line_end(form, text, line), lexicon())
    return {text for _, text in masks.words(masks.allowed(masks.begin()))}


def select(text: str, part: str) -> tuple[int, int]:
    return text.index(part), text.index(part) + len(part)


@pytest.mark.parametrize(
    "part",
    ["白日依山尽，黄河入海流。", "黄河入海流", "，黄河", "河", "流", "尽，黄", "海流。\n欲穷", POEM],
)
def test_a_part_of_a_text_keeps_to_the_form_and_the_rest_as_it_is(part: str) -> None:
    form = named("五绝")
    found = passage(form, POEM, *select(POEM, part))
    for seed in range(20):
        new = written(found, seed)
        assert new is not None
        assert check(form, POEM[: found.start] + new + POEM[found.end :]) == []


def test_every_line_of_a_song_is_written_again_without_a_fault() -> None:
    form = parse(f"韵: 十三辙\n{SONG}")
    text = "明月照人，天边路\n今夜望长春\n\n山中，山中\n落花又一村".replace("长春", "江村").replace("一村", "黄昏")
    assert check(form, text) == []
    for part in ("明月照人", "明月照人，天边路", "今夜望江村\n\n山中，山中", "落花又黄昏", "路\n今夜"):
        found = passage(form, text, *select(text, part))
        for seed in range(10):
            new = written(found, seed)
            assert new is not None
            whole = text[: found.start] + new + text[found.end :]
            assert check(form, whole) == []
            assert whole.count("\n") == text.count("\n")


def test_a_line_rhymes_with_the_others_and_repeats_none_of_their_words() -> None:
    found = ends(named("五绝"), POEM, 2)
    assert "楼" in found and "秋" in found  # its own word, and another of the class
    assert "流" not in found  # the other line's
    assert not found & set("年春黄上山")


def test_a_line_that_breaks_the_form_does_not_hinder_another() -> None:
    form = named("五律 仄起")
    for wrong in (LONG.replace("客何愁", "客何年"), LONG.replace("一年春又到", "一年春"), LONG.replace("星流", "星年")):
        faults = check(form, wrong)
        assert faults
        found = passage(form, wrong, *select(wrong, "江南月满舟"))
        assert any(written(found, seed) for seed in range(5))
        for seed in range(10):
            new = written(found, seed)
            if new is not None:
                whole = wrong[: found.start] + new + wrong[found.end :]
                assert {(f.line, f.column) for f in check(form, whole)} <= {(f.line, f.column) for f in faults}


def test_a_wrong_rhyme_elsewhere_is_said_and_the_others_decide() -> None:
    form = named("五律 仄起")
    wrong = LONG.replace("客何愁", "客何年")
    found = line_end(form, wrong, 4)
    assert found.notes == ("line 3, column 11: 年 does not rhyme with 流 and 牛 in 平水韵",)
    assert "舟" in ends(form, wrong, 4) and "天" not in ends(form, wrong, 4)
    assert PassageMasks(found, lexicon()).groups == ("尤",)


def test_the_first_rhyme_word_follows_those_after_it_that_agree() -> None:
    form = parse("韵: 平水韵\n5平a\n5平a\n5平a")
    text = "白日依山楼啊\n白日依山流啊\n白日依山舟啊".replace("啊", "").replace("白日", "一白日")
    assert PassageMasks(line_end(form, text, 1), lexicon()).groups == ("尤",)


def test_a_line_of_wrong_length_is_written_again_whole() -> None:
    form, text = named("五绝"), "白日依山，黄河入海流\n欲穷千里目，更上一层楼。"
    found = passage(form, text, *select(text, "白日依山，黄河入海流"))
    new = written(found, 1)
    assert new is not None and new.endswith("。")
    assert check(form, new + text[found.end :]) == []
    with pytest.raises(InputError, match=r"line 1 does not keep to the form \(5 characters stand here, not 4\)"):
        passage(form, text, *select(text, "依山"))


def test_a_line_that_is_not_complete_has_rhyme_words_for_its_end() -> None:
    form = named("五绝")
    assert "楼" in ends(form, "白日依山尽，黄河入海流。\n欲穷千里目，更上", 2)
    assert line_end(form, "白日依山尽，黄河入海流。\n欲穷千里目，更上", 2).start == 21
    assert "流" not in ends(form, "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼外", 2)


def test_a_required_word_stays_where_only_the_selection_has_it() -> None:
    form = parse("必含: 黄河\n5，5。\n5，5。")
    found = passage(form, POEM, *select(POEM, "黄河入海流"))
    assert found.required == ("黄河",)
    assert all("黄河" in str(written(found, seed)) for seed in range(5))
    with pytest.raises(InputError, match=r"黄河 .* stands only in the selection"):
        written(passage(form, POEM, *select(POEM, "河")), 1)


@pytest.mark.parametrize(
    ("form", "text", "part", "message"),
    [
        ("2，叠2", "山中，山中", "山中", "line 1 stands again in line 1"),
        (
            "[副歌]\n5\n[主歌]\n4\n[副歌] 重复",
            "今夜望江村\n明月照人\n今夜望江村",
            "今夜望江村",
            "stands again in line 3",
        ),
        ("「明月」3", "明月照江村", "明月", "gives every character of the selection in line 1"),
        ("5", "今夜望江村\n明月照人", "明月照人", "the form has 1 lines; select within them"),
        ("5。", "今夜望江村。", "。", "holds no character of a line"),
    ],
)
def test_a_selection_without_a_choice_is_one_clear_error(form: str, text: str, part: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        passage(parse(form), text, *select(text, part))


def test_a_rhyme_word_that_stands_again_keeps_its_character() -> None:
    form = parse("韵: 十三辙\n重字: 不可\n5a\n5a\n5a*")
    text = "明月照江村\n山高水不浑\n夜半望黄村"
    assert ends(form, text, 1) == {"村"} == ends(form, text, 3)
    found = passage(form, text, *select(text, "明月照江村"))
    assert all(str(written(found, seed)).endswith("村") for seed in range(5))
    found = passage(
        form, text, *select(text, "明月照江村\n山高水不浑\n夜半望黄")
    )  # the character that repeats it is not selected
    assert all("村\n" in str(written(found, seed)) for seed in range(5))


def test_a_character_that_stands_again_in_a_repeated_line_binds_both() -> None:
    form = parse("韵: 十三辙\n[主歌]\n2a\n3-4，2a*\n[主歌] 重复")
    text = "江村\n山高水，夜村\n江村\n山高水，夜村"
    part = "江村\n山高水，夜村\n江村"
    found = passage(form, text, *select(text, part))
    for seed in range(5):
        new = written(found, seed)
        assert new is not None and new[1] == "村"
        assert check(form, new + text[len(part) :]) == []


def test_a_line_that_is_none_of_the_forms_has_no_rhyme_words() -> None:
    with pytest.raises(InputError, match="line 3 is no line of the form; the text has 1, 4"):
        line_end(named("五绝"), POEM.replace("\n", "\n\n\n"), 3)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(forms(), st.integers(0, 1000), st.data())
def test_any_passage_of_a_random_form_is_completed_without_a_fault(notation, seed, data):
    form = parse(notation)
    text = read(random_tokens(FormMasks(form, lexicon()), seed))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    try:
        found = passage(form, text, start, end)
    except InputError:
        return
    try:
        new = written(found, seed)
    except InputError as error:
        assert "has no room for it; select more" in str(error)  # a required word that stood there in another place
        return
    assert new is not None
    assert check(form, text[: found.start] + new + text[found.end :]) == []
