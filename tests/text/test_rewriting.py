"""What a rewrite must look like, and where a written text is cut to fit."""

import functools
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.errors import InputError
from cpm_gen.text.cpm_tokenizer import Tokenizer
from cpm_gen.text.rewriting import Cut, Cutter, goal, trimmed, with_signs_of
from cpm_gen.text.tokenizer import Detokenizer
from tests.growth import reads_in_time

TEXT = "天还没有亮，他便起了床。院子里积了厚厚的一层雪。他说：“我今天要进城去。”母亲没有答话。"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(EMBEDDED)


def selected(part: str, text: str = TEXT) -> tuple[str, int, int]:
    start = text.index(part)
    return text, start, start + len(part)


def cut(tokenizer: Tokenizer, where: tuple[str, int, int], written: str) -> str | None:
    wanted = goal(*where)
    cutter = Cutter(wanted, Detokenizer(tokenizer), tokenizer.encode(wanted.head), tokenizer.encode(wanted.tail))
    for i in tokenizer.encode(written):
        if cutter.push(i):
            break
    found: Cut | None = cutter.cut(tokenizer, Detokenizer(tokenizer))
    assert found is None or tokenizer.decode(found.token_ids) == found.text
    return None if found is None else found.text


@pytest.mark.parametrize(
    ("part", "ending", "low", "high"),
    [
        ("院子里积了厚厚的一层雪。", "sentence", 8, 16),
        ("天还没有亮，", "clause", 4, 8),
        ("厚厚的一层雪", "phrase", 4, 8),
        ("雪", "phrase", 1, 2),
        ("“我今天要进城去。”", "sentence", 7, 13),
    ],
)
def test_a_candidate_is_as_long_as_the_selection_and_ends_as_it_does(
    part: str, ending: str, low: int, high: int
) -> None:
    wanted = goal(*selected(part))
    assert (wanted.ending, wanted.low, wanted.high) == (ending, low, high)


def test_a_line_without_a_sign_ends_at_a_line_break() -> None:
    assert goal(*selected("疑是地上霜", "床前明月光\n疑是地上霜\n举头望明月")).ending == "line"


@pytest.mark.parametrize(
    ("part", "written", "kept"),
    [
        ("院子里积了厚厚的一层雪。", "他走了。门外的风又大了起来。他不知道。", "他走了。门外的风又大了起来。"),  # the first in range
        ("院子里积了厚厚的一层雪。", "门外的风又大了起来，他不知道怎么办才好了。", "门外的风又大了起来。"),  # a comma is replaced
        ("院子里积了厚厚的一层雪。", "门外的风又大了起来他不知道怎么办才好了。", None),
        ("院子里积了厚厚的一层雪。", "门外的风又大\n了起来。", None),  # the selection has no line break
        ("天还没有亮，", "太阳下山。", "太阳下山，"),
        ("厚厚的一层雪", "一块大石头在那里", "一块大石头"),
        ("“我今天要进城去。”", "你今天不要去。”他说。", "“你今天不要去。”"),
        ("我今天要进城去。", "你不要去。”他说。", "你不要去。"),  # a quote that it did not open stays open
        ("他说：“我今天要进城去。", "他走了，门外的风又大了。", "他走了，门外的风又大了。"),  # the model opened no quote
        ("他说：“我今天要进城去。", "他走了：“外面的风很大。", "他走了：“外面的风很大。"),
    ],
)  # fmt: skip
def test_a_text_is_cut_at_its_first_end_that_fits(
    tokenizer: Tokenizer, part: str, written: str, kept: str | None
) -> None:
    found = cut(tokenizer, selected(part), written)
    if kept == "一块大石头":  # tokens may hold two characters
        assert found in ("一块大石头在", "一块大石头在那里"[:7], "一块大石头在那里")
    else:
        assert found == kept


def test_an_inserted_sentence_is_about_as_long_as_those_nearby() -> None:
    at = TEXT.index("院子")
    wanted = goal(TEXT, at, at)
    assert wanted.ending == "sentence"
    assert wanted.low <= 12 <= wanted.high


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (5, 4), (0, len(TEXT) + 1)])
def test_a_selection_outside_the_text_is_refused(start: int, end: int) -> None:
    with pytest.raises(InputError, match=f"from 0 to {len(TEXT)}"):
        trimmed(TEXT, start, end)


def test_white_space_at_the_edges_stays_and_alone_is_refused() -> None:
    assert trimmed("a \n 雪。\n\nb", 1, 8) == (4, 6)
    with pytest.raises(InputError, match="white space"):
        trimmed("a \n b", 1, 4)


def depths(text: str) -> tuple[int, int]:
    levels = [text[:at].count("“") - text[:at].count("”") for at in range(len(text) + 1)]
    return min(levels), levels[-1]


@settings(max_examples=100, deadline=None)
@given(
    st.text("雪人，。！“”\n一a", min_size=1, max_size=40), st.text("雪人来去，。！？“”…\n一", max_size=60), st.data()
)
def test_a_cut_keeps_length_and_end_of_any_selection(
    tokenizer: Tokenizer, text: str, written: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    try:
        where = (text, *trimmed(text, start, end))
    except InputError:
        return
    found = cut(tokenizer, where, written)
    core = text[where[1] : where[2]]
    if found is None or not core:
        return
    assert 0.7 * len(core) - 1 <= len(found) <= 1.3 * len(core) + 1
    (lowest, last), (lowest_now, last_now) = depths(found), depths(core)
    assert lowest_now <= lowest
    assert last <= last_now
    assert last == last_now or last_now > lowest_now  # only a selection that leaves a quote open may lose it
    if "\n" not in core:
        assert "\n" not in found
    if re.search(r"[。！？…]”*$", core):
        assert re.search(r"[。！？…]”*$", found)
    elif core[-1] == "，" and not re.search(
        r"[。！？…]”*，+$", core
    ):  # a sentence's sign before a comma ends a sentence
        assert found[-1] == "，"


class HalfWidth(Tokenizer):
    """As the vocabulary of CPM-1 writes signs."""

    def written(self, text: str) -> str | None:
        return unicodedata.normalize("NFKC", text)


def test_signs_are_those_of_the_text_around(tokenizer: Tokenizer) -> None:
    half = HalfWidth(EMBEDDED)
    assert with_signs_of("他说:走吧,3,000人!", TEXT, 0, 3, half) == "他说：走吧，3,000人!"
    assert with_signs_of("他走了,好.", "a, b, c.", 0, 1, half) == "他走了,好."


@pytest.mark.parametrize("part", ["。", "”", ".", "…", "“", "a", "\n", "。”", "1.", "，", " "])
@pytest.mark.parametrize("after", ["", "x", "\n"])
def test_a_long_text_is_looked_at_in_time(part: str, after: str) -> None:
    for first, last in ((0, 2), (3, 2), (2, 2)):  # the selection, in parts of the text; the last one is empty
        look = functools.partial(_look, first, last)
        reads_in_time(look, "字", part, after, 100_000)


def _look(first: int, last: int, text: str) -> None:
    goal(text, len(text) // first if first else 0, len(text) // last)
