"""The notation of forms: what it means, that it reads back, and that what is wrong is said with its place."""

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cpm_gen.text.forms.check import check
from cpm_gen.text.forms.errors import FormError
from cpm_gen.text.forms.form import Form
from cpm_gen.text.forms.named import ALIASES, named, names
from cpm_gen.text.forms.notation import MOST_TEXT, parse
from cpm_gen.text.forms.requested import read_form
from tests.growth import reads_in_time
from tests.text.forms.random_forms import forms

SONG = """韵: 通韵, a=江阳
[主歌一]
7,7a
7,7a
[副歌]
3+4a
5,5a
「就让风吹」4a
[主歌二] 同 主歌一, a=换
[副歌] 重复
"""


def test_a_song_has_its_sections_in_order():
    form = parse(SONG)
    assert [s.name for s in form.sections] == ["主歌一", "副歌", "主歌二", "副歌"]
    assert form.book == "中华通韵"
    assert form.pattern() == [
        "⊙⊙⊙⊙⊙⊙⊙，⊙⊙⊙⊙⊙⊙⊙a",
        "⊙⊙⊙⊙⊙⊙⊙，⊙⊙⊙⊙⊙⊙⊙a",
        "⊙⊙⊙+⊙⊙⊙⊙a",
        "⊙⊙⊙⊙⊙，⊙⊙⊙⊙⊙a",
        "就让风吹⊙⊙⊙⊙a",
        "⊙⊙⊙⊙⊙⊙⊙，⊙⊙⊙⊙⊙⊙⊙b",
        "⊙⊙⊙⊙⊙⊙⊙，⊙⊙⊙⊙⊙⊙⊙b",
        "⊙⊙⊙+⊙⊙⊙⊙a",
        "⊙⊙⊙⊙⊙，⊙⊙⊙⊙⊙a",
        "就让风吹⊙⊙⊙⊙a",
    ]


def test_a_form_is_made_by_its_own_methods():
    assert Form.parse(SONG) == parse(SONG)
    assert Form.named("浣溪沙", variant=2) == Form.named("浣溪沙 2") == named("浣溪沙 2")
    with pytest.raises(FormError, match="did you mean 五绝"):
        Form.named("五觉")


def test_what_an_input_method_for_chinese_types_is_read_as_well():
    typed = "韵：通韵，ａ＝江阳\n【主歌一】\n７，７ａ\n7，7a\n［副歌］\n3＋4a\n5,5a\n"
    assert parse(typed) == parse("韵: 通韵, a=江阳\n[主歌一]\n7,7a\n7,7a\n[副歌]\n3+4a\n5,5a\n")


@pytest.mark.parametrize(
    "text",
    [
        SONG,
        "体: 五绝 仄起\n韵: 平水韵\n藏头: 春江花月",
        "词牌: 浣溪沙\n韵: 词林正韵\n必含: 黄昏\n重字: 不可",
        "韵: 十三辙\n10a\n10b\n10a\n10b",
        "5a\n5a\n3+4\n2+3a\n禁用: 死, 恨",
        "4-6b\n3「的」3\n「明月」4-6b\n7b*",
        "⊙●○○⊙●○a\n中仄平平中仄平a",
    ],
)
def test_what_a_form_writes_of_itself_reads_back(text):
    form = parse(text)
    assert parse(str(form)) == form


@settings(max_examples=100, deadline=None)
@given(forms())
def test_any_form_reads_back(text):
    form = parse(text)
    assert parse(str(form)) == form


def test_every_named_form_reads_back():
    for name, count in names().items():
        for variant in (1, count) if count else (10, 24):
            form = named(name, variant)
            assert parse(str(form)) == form, (name, variant)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7a\n7b\n7b", 'form, line 1: rhyme "a" is used once; give it a second line or drop it'),
        ("7&", "form, line 1, column 2: & does not belong here; a comma, + or the line's end does"),
        ("5\n「明月", "form, line 2, column 1: 「 is not closed; 」 is missing"),
        ("6-4", "form, line 1, column 2: a range goes up, such as 4-6"),
        (
            "韵: 广韵\n7",
            "form, line 1: there is no rhyme book 广韵; there are 平水韵 词林正韵 中华新韵 中华通韵 十三辙",
        ),
        ("韵: 通韵, a=江洋\n7a\n7a", "form, line 1: 中华通韵 has no rhyme group 江洋"),
        ("体: 五觉", "form, line 1: there is no form 五觉; did you mean 五绝"),
        ("5a\n5a\n藏头: 一二三", "form, line 3, column 7: 藏头 has 3 characters, the form only 2 clauses"),
        ("5a\n5a\n藏头: 一，二 三", "form, line 3, column 9: 藏头 has 3 characters, the form only 2 clauses"),
        ("藏投: 一\n5", "form, line 1: 藏投 is no setting"),
        ("[副歌] 重复", "form, line 1: [副歌] 重复 repeats a section that is not above it"),
        ("", "form: it has no lines"),
        ("7\n" * 286, "form, line 286: the text has more than 2,000 characters here; shorten the form"),
        ("[一]\n" + "7\n" * 200 + "[一] 重复", "form, line 202: the text has more than 2,000 characters here"),
        ("[一]\n" + "7\n" * 200 + "[二] 同 一", "form, line 202: the text has more than 2,000 characters here"),
        ("必含: moon\n7", "form, line 1: 必含 takes Chinese characters, not moon"),
        ("99", "form, line 1, column 1: a part has at most 40 characters"),
        ("[一]\n5a\n5a\n[二] 同 一，a=b，", "form, line 4: after [二] stands nothing, 重复, or 同"),
        ("[一]\n5a\n5a\n[二] 同 一 二", "form, line 4: after [二] stands nothing, 重复, or 同"),
        ("[一]\n5a\n5a\n[二] 同 一, a=b c", "form, line 4: after [二] stands nothing, 重复, or 同"),
        ("[一]\n5a\n5a\n[二] 同 一, a=bc", "form, line 4: a=bc: a label or 换"),
        ("体: 五排 0100999999", "form, line 1: 五排 takes an even number of lines from 10 to 200"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text, message):
    with pytest.raises(FormError) as caught:
        parse(text)
    assert str(caught.value).startswith(message)


def test_words_and_heads_stand_where_they_are_written():
    form = parse("5\n5\n必含：春风, 风、春风\n藏头: 一，二")
    assert form.required_at == (("春风", (3, 4, "form")), ("风", (3, 8, "form")))
    heads = [line.parts[0].slots[0] for line in form.lines()]
    assert [(head.given, head.place) for head in heads] == [("一", (4, 5, "form")), ("二", (4, 7, "form"))]


WORDS = ["体: 五绝", "词牌: ", "韵: 通韵", "藏头: ", "必含: ", "[副歌]", "4-6"]
PIECES = st.sampled_from([*"0123456789abz*+-,，。、「」[]:：=\n\n 平仄中⊙○●叠同换重复春的", *WORDS])


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join) | st.text(max_size=200))
def test_random_text_is_a_form_or_a_clear_error(text):
    began = time.thread_time()
    try:
        form = parse(text)
    except FormError as error:
        assert time.thread_time() - began < 0.1
        assert "\n" not in str(error).split(":")[0]
    else:
        assert time.thread_time() - began < 0.1
        assert parse(str(form)) == form


BEGINNINGS = ["", "韵: x", "[x]", "[x] 同 x", "必含: 春", "藏头: ", "体: ", "体: 五排 1", "「", "7+", "[主]\n1\n"]
BEGINNINGS += ["[主]\n5a\n5a\n[b] 同 主", "[主]\n5a\n5a\n[b] 同 主, a"]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(BEGINNINGS),
    st.lists(PIECES | st.just(" "), min_size=1, max_size=5).map("".join),
    st.sampled_from(["", "x", " y", "]", "\n5"]),
)
@example("[主]\n5a\n5a\n[b] 同 主", ",a=b", " y")
@example("[主]\n5a\n5a\n[b] 同 主", ",a=换", "")
@example("韵: x", " ", "x")
@example("[x]", " ", "x")
@example("", "字", " ")
@example("体: 五排 01", "0", "")
def test_the_longest_text_is_read_in_time(before, repeated, after):
    reads_in_time(read_form, before, repeated, after, MOST_TEXT)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"[{at}]\n1" for at in range(1999)),
        "[a]\n1\n" + "\n".join(f"[{at}]同a" for at in range(1999)),
        "[a]\n1\n" + "[a]重复\n" * 1999,
        "1a,1a\n" * 1000,
    ],
)
def test_a_form_of_many_parts_is_read_and_checked_in_time(text):
    began = time.process_time()
    form = parse(text)
    assert check(form, "山\n" * 1990)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "text", ["7a\n" * 6000, "「" * 20_000, "7+" * 9_000, "[a]\n5\n[b] 同 a\n" * 1_000, "9" * 20_000]
)
def test_long_text_is_read_or_refused_at_once(text):
    began = time.process_time()
    with pytest.raises(FormError):
        parse(text)
    assert time.process_time() - began < 0.5


# the characters of well-known poems by these names
LENGTHS = {
    16: "苍梧谣 十六字令",
    18: "闲中好",
    27: "望江南 谢秋娘 渔父 江南好",
    32: "调笑令 转应曲",
    33: "忆仙姿 宴桃源 如意令",
    36: "长相思令 吴山青 上西楼",
    41: "点樱桃",
    42: "浣溪纱 小庭花",
    43: "关河令",
    44: "丑奴儿 罗敷媚 百尺楼 减兰 重叠金",
    46: "秦楼月 忆萝月",
    47: "醉桃源 碧桃春",
    48: "摊破浣溪沙 秋波媚 青衫湿 虞美人影",
    50: "步虚词",
    52: "南柯子 风蝶令",
    54: "卖花声 过龙门",
    55: "思佳客 醉梅花 木兰花",
    56: "金风玉露相逢曲 惜春容",
    57: "醉落魄",
    58: "小重山令 踏雪行 惜分钗",
    60: "鹊踏枝 凤栖梧 黄金缕 钗头凤 糖多令 南楼令",
    62: "鬓云松令 十拍子",
    70: "江神子",
    77: "宝钗分 月底修箫谱",
    78: "孤雁儿",
    83: "洞仙歌令",
    90: "愁春未醒",
    95: "满庭霜 锁阳台 潇湘夜雨",
    97: "忆吹箫 红情 夏初临 甘州",
    98: "应天长慢",
    99: "玉蝴蝶慢 胜胜慢",
    100: "百字令 酹江月 大江东去 壶中天 庆春泽慢 赤壁词 湘月",
    101: "疏帘淡月",
    102: "龙吟曲 台城路 如此江山 庆宫春",
    103: "雨淋铃",
    104: "消息",
    106: "望梅",
    108: "薄幸",
    110: "绿意 解佩环",
    111: "苏武慢 女冠子慢",
    113: "惜余春慢",
    114: "寿星明 洞庭春色 小梅花",
    116: "摸鱼子 迈陂塘 金缕曲 乳燕飞 貂裘换酒",
    139: "鸭头绿",
    240: "丰乐楼",
}


def test_other_names_of_a_form_have_the_length_of_their_poems():
    for length, found in LENGTHS.items():
        for name in found.split():
            assert name in ALIASES
            assert named(name).characters == length, name


def test_another_name_means_a_form_and_is_no_forms_own_name():
    assert len(ALIASES) > 400
    assert not ALIASES.keys() & names().keys()
    for name, meaning in ALIASES.items():
        assert named(name) == named(meaning), name
        assert not meaning.endswith(" 1"), name
    assert named("钗头凤", 1) == named("撷芳词")


@pytest.mark.parametrize(
    ("name", "stanza"), [("撷芳词", "aaabbb"), ("撷芳词 2", "aaabbbb"), ("钗头凤", "aaabbbb"), ("撷芳词 5", "aaabbbb")]
)
def test_a_second_stanza_that_changes_its_rhyme_within_returns_to_the_firsts(name, stanza):
    labels = [part.label for line in named(name).sections[0].lines for part in line.parts if part.label]
    assert "".join(labels) == 2 * stanza


def test_stanzas_that_begin_with_another_rhyme_keep_it():
    labels = [part.label for line in named("菩萨蛮").sections[0].lines for part in line.parts if part.label]
    assert "".join(labels) == "aabbccdd"


def test_long_regulated_verse_takes_a_number_of_lines():
    assert names()["排律"] == names()["五排"] == names()["七排"] == 0
    assert named("排律 20") == named("五排", 20) == named("五言排律 20")
    assert [named(f"{name} 200").characters for name in ("五排", "七言排律")] == [1000, 1400]
    for wrong in ("1", "4", "11", "202"):
        with pytest.raises(FormError, match="七排 takes an even number of lines from 10 to 200"):
            named("七排", wrong)


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("菩萨蛮", "77555555"),
        ("虞美人", "7576375763"),
        ("减字木兰花", "47474747"),
        ("清平乐", "45766666"),
        ("古调笑", "22666226"),
        ("相见欢", "636333363"),
        ("昭君怨", "66536653"),
        ("西江月", "66766676"),
        ("更漏子", "336335336335"),
        ("定风波", "77727727727"),
        ("归字谣", "1735"),
        ("诉衷情", "22333235253"),
    ],
)
def test_a_tune_that_changes_its_rhyme_has_the_lengths_of_its_poems(name, lengths):
    assert "".join(str(len(p.slots)) for line in named(name).lines() for p in line.parts) == lengths


@pytest.mark.parametrize(("text", "says"), [("浣溪沙2", "did you mean 浣溪沙"), ("五绝x", "did you mean 五绝")])
def test_a_name_with_a_slip_is_no_notation(text: str, says: str) -> None:
    with pytest.raises(FormError, match=f"there is no form {text}; {says}"):
        read_form(text)
