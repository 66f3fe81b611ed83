"""Texts with an outline: headings are given, lengths are kept, and the tokens are the same in every way of writing them."""

import dataclasses
import itertools

import pytest

import cpm_gen
from cpm_gen import Chapter, Story
from cpm_gen.config.options import SamplingParams, TextOptions
from cpm_gen.engine.sequence import Sequence
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.text.stories.chapters import PATIENCE
from cpm_gen.text.stories.story import StoryError
from tests.runtime.texts import chunks_of

OUTLINE = (
    Chapter("第一回 风雪山神庙", 90, 120, "林冲到草料场。"),
    Chapter("第二回 雪夜上山", 70, 70),
    Chapter("第三回", 60, 90, "林冲上山。"),
)
STORY = Story(premise="林冲被高俅陷害。", note="风雪很大。", depth=1, outline=OUTLINE)
SAMPLING = SamplingParams(temperature=0.9, top_k=50)
ENDS = ("。", "！", "？", "…", "”", "!", "?", "...")


@pytest.fixture(scope="module")
def llm():
    with cpm_gen.load(window_limit=90, window_boundary="sentence", batch=8) as llm:
        yield llm


def bodies(text: str, outline=OUTLINE) -> list[str]:
    """The chapters' texts, cut at the lines of their headings."""
    found = []
    for chapter in outline:
        before, heading, text = text.partition(f"{chapter.title}\n")
        assert heading, f"{chapter.title} is missing"
        assert not before or before.endswith("\n")
        found.append(before)
    return [*found[1:], text]


def characters(text: str) -> int:
    return len("".join(text.split()))


def test_headings_are_given_and_lengths_are_kept(llm):
    texts = llm.generate_many(n=8, story=STORY, style="novel", seed=3, max_new_tokens=5, temperature=0.9, top_k=50)
    ends = set()
    for text in texts:
        assert text.finish_reason == "story"
        assert text.text.startswith("第一回 风雪山神庙\n")
        for chapter, body in zip(OUTLINE, bodies(text.text), strict=True):
            assert chapter.least <= characters(body) < chapter.most + PATIENCE
            if characters(body) > chapter.most:  # it went on to the end of the sentence, and no further
                cut = len(body.rstrip("\n")) - 1
                while characters(body[:cut]) >= chapter.most:
                    quoted = body[cut] in "”’」』"  # a token may hold both
                    assert quoted or not body[:cut].endswith(("。", "！", "？", "!", "?"))
                    cut -= 1
            ends.add(body.rstrip("\n")[-1])
        assert "<eod>" not in text.text
    assert ends & set(ENDS)


def test_the_end_of_a_text_ends_a_chapter_between_the_least_and_the_greatest_length(llm):
    end = llm.tokenizer.special("<eod>")
    settings = {"story": STORY, "style": "novel", "seed": 3, "temperature": 0.9, "top_k": 50}
    eager = llm.generate(logit_bias={end: 50}, **settings)
    for chapter, body in zip(OUTLINE, bodies(eager.text), strict=True):
        longest = max(len(llm.tokenizer.surface(i)) for i in range(llm.tokenizer.size) if i != end)
        assert chapter.least <= characters(body) < chapter.least + longest
    assert eager.token_ids[-1] == end
    banned = llm.generate(banned_ids=[end], **settings)
    for chapter, body in zip(OUTLINE, bodies(banned.text), strict=True):
        assert characters(body) >= chapter.most
        assert body.rstrip("\n").endswith(ENDS)


def test_a_network_that_ends_no_sentence_is_made_to(llm):
    ids = [i for i in range(llm.tokenizer.size) if llm.tokenizer.surface(i).endswith((*ENDS, "\n"))]
    outline = (Chapter("一", 10, 20), Chapter("二", 10, 20))
    bias = dict.fromkeys((*ids, llm.tokenizer.special("<eod>")), -100)
    text = llm.generate(story=Story(outline=outline), style="novel", seed=3, logit_bias=bias, top_k=20)
    assert text.finish_reason == "story"
    for body in bodies(text.text, outline):
        assert 20 + PATIENCE <= characters(body) < 20 + PATIENCE + 8


def requests(llm, prompts, **options):
    text = TextOptions(style="novel", max_new_tokens=9, seed=4, story=str(STORY), **options)
    return llm.engine.requests(prompts, SAMPLING, text), text


def run(llm, requests, text):
    """The ids, the parts in sight at each token, and where the window began."""
    found = []
    for chunks in chunks_of(llm, requests, text):
        assert chunks[-1].finish_reason == "story"
        shown = [(c.in_sight, c.window_start) for c in chunks]
        found.append((tuple(i for c in chunks for i in c.token_ids), shown))
    return found


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 41])
def test_texts_are_the_same_recomputed_together_and_resumed(llm, every):
    prompts = [llm.encode(p, "novel") for p in ("江上有月，", "他走了。")] + [llm.engine.vocabulary.start_ids()] * 2
    eight, text = requests(llm, prompts, n=2)
    together = run(llm, eight, text)
    pairs = [(eight[0], together[0]), (eight[-1], together[-1])]
    for request, (ids, shown) in pairs if every == 1 else pairs[1:]:
        assert run(llm, [request], text) == [(ids, shown)]
        assert run(llm, [dataclasses.replace(request, recompute=True)], text) == [(ids, shown)]
        for cut in (1, 20, len(ids) // 2, len(ids) - 1)[:: 1 if every == 1 else 2]:
            resumed = dataclasses.replace(request, written=ids[:cut])
            assert run(llm, [resumed], text) == [(ids[cut:], shown[cut:])]
        grown = Sequence(request)
        for cut, token in enumerate(ids[:-1], 1):
            grown.append(token)
            if cut % every:
                continue
            resumed = Sequence(dataclasses.replace(request, written=ids[:cut]))
            for name in ("start", "next_start", "slides", "inserted", "next_inserted"):
                assert getattr(resumed, name) == getattr(grown, name)
            assert resumed.allowed() is grown.allowed()  # masks are made once
    with pytest.raises(InputError, match="what was written is complete"):
        dataclasses.replace(request, written=ids)


def test_the_plot_in_sight_changes_only_when_the_window_moves(llm):
    [request], text = requests(llm, [llm.engine.vocabulary.start_ids()])
    [(_, shown)] = run(llm, [request], text)
    titles = [chapter.title for chapter in OUTLINE if chapter.plot]
    seen = [[title for title in titles if title in sight] for sight, _ in shown]
    assert seen[0] == titles[:1]
    assert [titles[1]] in seen
    assert all(sight[:2] == ("前提", "笔记") for sight, _ in shown)
    for before, after in itertools.pairwise(shown):
        assert before == after or before[1] < after[1]


def test_a_prompt_stands_before_the_first_heading(llm):
    text = llm.generate("引子。", story=STORY, style="novel", seed=3)
    assert text.text.startswith("\n第一回 风雪山神庙\n")
    assert llm.generate_many([""], story=STORY, style="novel", seed=3)[0].text.startswith("第一回 风雪山神庙\n")


@pytest.mark.parametrize("style", ["lyric", "plain"])
def test_every_style_has_chapters(llm, style):
    text = llm.generate(story=STORY, style=style, seed=3, temperature=0.9, top_k=50)
    assert text.finish_reason == "story"
    for chapter, body in zip(OUTLINE, bodies(text.text), strict=True):
        assert chapter.least <= characters(body) < chapter.most + PATIENCE


def test_what_an_outline_does_not_go_with_is_refused(llm):
    with pytest.raises(ConfigError, match="a form and an outline of chapters both end the text"):
        llm.generate(story=STORY, form="五绝")
    with pytest.raises(ConfigError, match="an outline of chapters ends the text by itself; leave stop out"):
        llm.generate(story=STORY, stop=["。"])
    with pytest.raises(StoryError, match="the title 第一回 𠮷 cannot be written: the vocabulary has no piece for 𠮷"):
        llm.generate(story=Story(outline=(Chapter("第一回 𠮷", 10, 20),)))
    with pytest.raises(StoryError, match=r"the longest plot of the story have [0-9]+ tokens; a window of 90 has room"):
        llm.generate(story=Story(outline=(Chapter("一", 10, 20, "雪" * 100),)))


def test_a_text_that_holds_chapters_goes_on_in_the_last_of_them(llm):
    settings = {"story": STORY, "style": "novel", "seed": 3, "temperature": 0.9, "top_k": 50}
    body = "江上有月。" * 9
    text = llm.generate(f"引子。\n第一回 风雪山神庙\n{body}", **settings)
    first, rest = text.text.split("第二回 雪夜上山\n")
    assert 90 <= characters(body + first) < 120 + PATIENCE
    assert "第一回" not in first
    assert rest.count("第三回\n") == 1
    complete = llm.generate(
        f"第一回 风雪山神庙\n{body}第二回 雪夜上山\n{body}\n第二回 雪夜上山\n{body * 2}", **settings
    )
    assert complete.text.startswith("\n第三回\n")
    with pytest.raises(StoryError, match="the text holds all chapters of the outline; add one"):
        llm.generate(f"第三回\n{body * 2}", **settings)
