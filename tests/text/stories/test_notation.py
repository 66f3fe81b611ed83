"""The notation of stories: it reads back, its errors say where and what would be right, and no text breaks it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpm_gen.text.stories.story import MOST_CHARS, Chapter, Lore, Story, StoryError
from tests.growth import reads_in_time

EXAMPLE = """扫描: 300
预算：150

[前提]
林冲被高俅陷害，刺配沧州。

他一路北上。
[人物]
林冲是教头。
[笔记 深2]
这一夜风雪很大。
[设定: 青松寨, 山寨]
青松寨在山上。
[设定 序2 常在：草料场、草场]
草料场在城东。
[第一回 风雪山神庙] 2000-2600字
林冲到草料场。

夜里大雪。
[第二回] 800 ～ 900 字
[第三回]700字
"""


def test_a_story_is_read():
    assert Story.parse(EXAMPLE) == Story(
        premise="林冲被高俅陷害，刺配沧州。\n\n他一路北上。",
        characters="林冲是教头。",
        note="这一夜风雪很大。",
        depth=2,
        lore=(
            Lore(("青松寨", "山寨"), "青松寨在山上。"),
            Lore(("草料场", "草场"), "草料场在城东。", order=2, constant=True),
        ),
        scan=300,
        budget=150,
        outline=(
            Chapter("第一回 风雪山神庙", 2000, 2600, "林冲到草料场。\n\n夜里大雪。"),
            Chapter("第二回", 800, 900),
            Chapter("第三回", 700, 700),
        ),
    )
    assert Story.parse(EXAMPLE.replace("\n", "\r\n")) == Story.parse(EXAMPLE)


prose = (
    st.lists(st.text("林冲 a:，,]\t。", min_size=0, max_size=8).map(str.rstrip), min_size=1, max_size=4)
    .map("\n".join)
    .map(str.strip)
)
keys = st.lists(
    st.text("林冲ab 草", min_size=1, max_size=5).map(str.strip).filter(bool), min_size=1, max_size=3, unique=True
)
titles = st.text("第一回 风雪:：a前提", min_size=1, max_size=9).map(str.strip).filter(bool)
lengths = st.tuples(st.integers(1, 1000), st.integers(0, 1000))
chapters = st.builds(lambda title, length, plot: Chapter(title, length[0], sum(length), plot), titles, lengths, prose)
stories = st.builds(
    Story,
    premise=prose.filter(bool),
    memory=prose,
    characters=prose,
    note=prose.filter(bool),
    depth=st.integers(0, 9),
    lore=st.lists(
        st.builds(Lore, keys.map(tuple), prose.filter(bool), st.integers(0, 100_000), st.booleans()), max_size=3
    ).map(tuple),
    scan=st.integers(0, 100_000),
    budget=st.none() | st.integers(0, 1000),
    outline=st.lists(chapters, max_size=3, unique_by=lambda chapter: chapter.title).map(tuple),
)


def test_two_chapters_of_one_title_are_refused():
    with pytest.raises(StoryError, match="2 chapters have the title 第一回; give each a title of its own"):
        Story(outline=(Chapter("第一回", 10, 20), Chapter("第二回", 10, 20), Chapter("第一回", 30, 40)))


@settings(max_examples=200, deadline=None)
@given(stories)
def test_a_story_reads_back_from_its_notation(story):
    assert Story.parse(str(story)) == story


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1, column 1: the story is empty; begin with a heading"),
        ("【前提】\n林冲", r"line 1, column 1: a heading stands in half-width brackets: \[前提\]"),
        ("林冲", r"line 1, column 1: text before the first heading; begin with \[前提\]"),
        ("扫描: 很多\n[前提]\n甲", r"line 1, column 4: 扫描 takes a whole number from 0 to 100,000, not 很多"),
        ("扫描: 1\n扫描: 2", r"line 2, column 1: 扫描 is given twice"),
        ("[前提]\n甲\n[前題]\n乙", r"line 3, column 2: there is no heading 前題; there are \[前提\]"),
        ("[前提\n甲", r"line 1, column 4: a line that begins with \[ is a heading and ends with \]"),
        ("[前提]\n\n[人物]\n甲", r"line 1, column 1: 前提 is empty; write prose under it"),
        ("[前提]\n甲\n[前提]\n乙", r"line 3, column 2: 前提 is given twice"),
        ("[一] 9字\n[二] 9字\n甲\n[一] 8字", r"line 4, column 1: 一 is the title of line 1, too"),
        ("[前提 深3]\n甲", r"line 1, column 5: 深3: behind 前提 may stand nothing"),
        ("[笔记 深三]\n甲", r"line 1, column 5: 深 takes a whole number"),
        ("[设定]\n甲", r"line 1, column 4: 设定 needs keys: \[设定: 青松寨, 山寨\]"),
        ("[设定: 甲,,乙]\n甲", r"line 1, column 5: an empty key"),
        ("[前提: 甲]\n甲", r"line 1, column 4: 前提 has no keys"),
        ("[设定 常在: 甲]\n", r"line 1, column 1: 设定 is empty"),
        ("[]\n甲", r"line 1, column 2: there is no heading without a word"),
        (
            "[第一回]\n甲",
            r"line 1, column 2: there is no heading 第一回; there are .*, and chapters: \[第一回 风雪山神庙\] 2000-2600字",
        ),
        ("[第一回] 很长\n甲", r"line 1, column 6: 很长: behind \] may stand the length of a chapter"),
        ("[第一回] 20-10字", r"line 1, column 1: 第一回 has from 20 to 10 characters; the first number is at least 1"),
        ("[第一回] 0字", r"line 1, column 1: 第一回 has from 0 to 0 characters"),
        ("[第一回] 100001字", r"line 1, column 1: 字 must be from 0 to 100,000, not 100001"),
        ("[] 5字", r"line 1, column 1: the title of a chapter is 1 to 100 characters"),
    ],
)
def test_a_mistake_is_named_with_its_place(text, message):
    with pytest.raises(StoryError, match=rf"story, {message}"):
        Story.parse(text)


@settings(max_examples=500, deadline=None)
@given(st.text("[]:：,，、 \n\t深序常在笔记设定前提0123-字林a\x00\ud800\u2028") | st.text())
def test_any_text_is_a_story_or_a_story_error(text):
    try:
        story = Story.parse(text)
    except StoryError:
        return
    assert Story.parse(str(story)) == story


@pytest.mark.parametrize(
    "part", ["[", "]", "[设定: a]\n甲\n", ",", "[设定: " + "a," * 100, " ", "\n", "扫描: 1\n", "[a] 5字\n", "[1", "]1"]
)
@pytest.mark.parametrize(("before", "after"), [("", ""), ("[a] 5", "x字"), ("[设定: ", "]\n甲")])
def test_a_long_text_is_read_in_time(part, before, after):
    reads_in_time(Story.parse, before, part, after, MOST_CHARS)
