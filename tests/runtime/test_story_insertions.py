"""Texts with a story: what is in sight, and the same tokens cached, recomputed, together and resumed."""

import dataclasses

import pytest

import cpm_gen
from cpm_gen import Lore, Story
from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError
from cpm_gen.runtime.story_insertions import StoryInsertions
from cpm_gen.text.stories.story import StoryError
from tests.runtime.texts import chunks_of

STORY = Story(
    premise="林冲被高俅陷害。",
    characters="林冲是教头。",
    note="风雪很大。",
    depth=1,
    lore=(
        Lore(("山",), "山上有人。"),
        Lore(("水", "江"), "水在城东。", order=2),
        Lore(("月",), "月下无人。", order=1),
    ),
    scan=40,
)
SAMPLING = SamplingParams(temperature=0.9, top_k=50)


@pytest.fixture(scope="module")
def llm():
    with cpm_gen.load(window_limit=120, window_boundary="sentence") as llm:
        yield llm


def chosen(llm, story: Story, text: str, limit: int = 120):
    ids = llm.encode(text, "novel")
    return StoryInsertions(story, llm.engine.vocabulary, "novel", limit).choose(ids, len(ids), None)


def test_lore_is_in_sight_while_a_key_is_mentioned(llm):
    inserted = chosen(llm, STORY, "江上有月，他走了。")
    assert inserted.shown == ("前提", "人物", "笔记", "设定: 月", "设定: 水")  # the highest order nearest to the text
    assert inserted.left_out == ()
    assert llm.tokenizer.decode(inserted.before) == "林冲被高俅陷害。\n月下无人。\n水在城东。\n"
    assert [llm.tokenizer.decode(note.ids) for note in inserted.notes] == ["风雪很大。\n", "林冲是教头。\n"]
    assert chosen(llm, STORY, "山" + "他走了。" * 20).shown == ("前提", "人物", "笔记")  # beyond the last 40 tokens


def test_what_has_no_room_is_left_out_from_the_lowest_order_up(llm):
    size = len(chosen(llm, STORY, "水").before) - len(chosen(llm, STORY, "他").before)
    tight = dataclasses.replace(STORY, budget=2 * size)
    inserted = chosen(llm, tight, "山水月")
    assert inserted.shown[3:] == ("设定: 月", "设定: 水")
    assert inserted.left_out == ("设定: 山",)


@pytest.mark.parametrize("special", [False, True])
def test_names_of_special_pieces_are_read_as_in_prompts(special):
    story = Story(premise="林冲<sep>教头", note="<mask>雪", lore=(Lore(("江",), "江<sep>", constant=True),))
    with cpm_gen.load(special_pieces=special) as llm:
        inserted = chosen(llm, story, "他走了。")
        sep, mask = (llm.tokenizer.specials[name] for name in ("<sep>", "<mask>"))
        assert (inserted.before.count(sep), inserted.notes[0].ids.count(mask)) == ((2, 1) if special else (0, 0))
        assert [*inserted.before] == [
            i for part in ("林冲<sep>教头", "江<sep>") for i in (*llm.encode(part, "novel"), *llm.encode("甲\n")[-1:])
        ]


def test_constant_lore_needs_no_key(llm):
    always = dataclasses.replace(STORY, lore=(Lore(("山",), "山上有人。", constant=True),))
    assert chosen(llm, always, "他走了。").shown[3:] == ("设定: 山",)


def test_the_note_stands_some_sentences_before_the_end(llm):
    for depth, place in ((0, "三句。"), (1, "二句。"), (2, "一句。"), (9, "")):
        text = "一句。二句。三句。四"
        note, characters = chosen(llm, dataclasses.replace(STORY, depth=depth), text).notes[:: 1 if depth else -1]
        assert llm.tokenizer.decode(llm.encode(text, "novel")[: note.at]).endswith(place)
        assert llm.tokenizer.decode(llm.encode(text, "novel")[: characters.at]).endswith("三句。")
        assert llm.tokenizer.decode(note.ids) == "风雪很大。\n"


def test_a_story_takes_at_most_half_of_the_window(llm):
    with pytest.raises(
        StoryError, match=r"前提, 人物, 笔记 of the story have [0-9]+ tokens; a window of 20 has room for 10"
    ):
        chosen(llm, STORY, "他", limit=20)
    with pytest.raises(StoryError, match=r"设定: 山 of the story has [0-9]+ tokens; there is room for 2; shorten it"):
        chosen(llm, dataclasses.replace(STORY, budget=2), "他")


@pytest.mark.parametrize(
    "style", ["novel", pytest.param("lyric", marks=pytest.mark.slow), pytest.param("plain", marks=pytest.mark.slow)]
)
def test_texts_are_the_same_recomputed_together_and_resumed(llm, style):
    text = TextOptions(style=style, max_new_tokens=260, seed=4, n=2, story=str(STORY))
    requests = llm.engine.requests([llm.encode("江上有月，", style), llm.encode("他", style)], SAMPLING, text)
    assert requests[0].window.limit + requests[0].insertions.room == 120
    together = run(llm, requests, text)
    for request, (ids, slides, sights) in zip(requests, together, strict=True):
        assert slides > 2
        assert run(llm, [request], text) == [(ids, slides, sights)]
        for cut in (140,) if style == "novel" else (1, 140, 259):  # more of them in the slow tests
            resumed = dataclasses.replace(request, written=ids[:cut])
            assert run(llm, [resumed], text) == [(ids[cut:], slides, sights[cut:])]
    ids, slides, sights = together[-1]
    assert run(llm, [dataclasses.replace(requests[-1], recompute=True)], text) == [(ids, slides, sights)]


def run(llm, requests, text):
    return [
        (tuple(i for c in chunks for i in c.token_ids), chunks[-1].slides, [c.in_sight for c in chunks])
        for chunks in chunks_of(llm, requests, text)
    ]


def test_a_story_changes_the_text_and_is_reported(llm):
    settings = {"style": "novel", "max_new_tokens": 150, "seed": 4, "temperature": 0.9, "top_k": 50}
    plain = llm.generate("他", **settings)
    told = llm.generate("他", story=STORY, **settings)
    assert told.token_ids != plain.token_ids
    assert told == dataclasses.replace(llm.generate("他", story=str(STORY), **settings), timing=told.timing)
    assert told.in_sight[:3] == ("前提", "人物", "笔记")
    assert plain.in_sight == ()
    assert told.prompt_token_ids == plain.prompt_token_ids


def test_a_story_takes_the_place_of_kept_tokens(llm):
    text = TextOptions(story=str(STORY))
    with pytest.raises(ConfigError, match="a story takes the place of window_keep, which is 3"):
        llm.engine.requests([[5]], SAMPLING, text, window=Window(100, 50, keep=3))
    with pytest.raises(StoryError, match="line 1, column 1"):
        llm.generate("他", story="林冲")
