"""The embedded model is what its card says, and knows both styles.

The bounds leave room for another edition. Tests elsewhere run the embedded model, too, but state nothing that depends on its weights.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import cpm_gen
from cpm_gen.checkpoints.locate import EMBEDDED, open_checkpoint
from cpm_gen.config.files import shipped
from cpm_gen.config.resolve import resolve
from cpm_gen.llm import LLM
from tests.embedded import LIMIT
from tests.text.test_tokenizer import EMBEDDED_TOKENIZER as TOKENIZER
from tests.text.test_tokenizer import SPECIALS, TEXTS, sentencepiece_alone

WITHOUT_JIEBA = sentencepiece_alone(EMBEDDED)


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with cpm_gen.load() as llm:
        yield llm


def test_it_is_small_and_stored_in_at_most_16_bits() -> None:
    size = sum(p.stat().st_size for p in EMBEDDED.rglob("*") if p.is_file())
    assert size < 30_000_000
    checkpoint = open_checkpoint(EMBEDDED)
    assert checkpoint.dtype.itemsize <= 2
    assert checkpoint.notes == []


def test_the_card_states_data_licence_steps_and_loss() -> None:
    card = (EMBEDDED / "MODEL_CARD.md").read_text(encoding="utf-8")
    facts = json.loads((EMBEDDED / "training.json").read_text(encoding="utf-8"))
    for value in (facts["steps"], facts["tokens_trained"], facts["parameters"]):
        assert f"{value:,}" in card
    for loss in facts["held_out_nats_per_token"].values():
        assert f"{loss:.2f}" in card
    assert "MIT" in card


def test_the_cards_samples_are_what_its_seeds_give(llm: LLM) -> None:
    card = (EMBEDDED / "MODEL_CARD.md").read_text(encoding="utf-8")
    samples = re.findall(
        r"`cpm-gen (lyric|novel) (\S+) --seed (\d+) --max-new-tokens (\d+)`\n\n```text\n(.*?)\n```", card, re.DOTALL
    )
    assert len(samples) >= 4
    for style, prompt, seed, count, expected in samples:
        preset = dataclasses.asdict(resolve(files=[shipped(f"{style}.yaml")]).sampling)
        text = llm.generate(prompt, style=style, seed=int(seed), max_new_tokens=int(count), **preset).text
        # rounding differs between machines; a text that begins alike was sampled alike
        assert text[:20] == expected[:20]


def perplexity(llm: LLM, ids: list[int]) -> float:
    scores = [p for p in llm.score(ids) if p is not None]
    return math.exp(-sum(scores) / len(scores))


def test_verse_and_prose_are_far_likelier_than_their_words_in_disorder(llm: LLM) -> None:
    import random

    verse = "白日依山尽，黄河入海流。<eod>欲穷千里目，更上一层楼。<eod>"
    prose = "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。及秦灭之后，楚、汉分争，又并入于汉。"
    for style, text in (("lyric", verse), ("novel", prose)):
        ids = llm.encode(text, style)
        shuffled = ids.copy()
        random.Random(0).shuffle(shuffled)
        assert perplexity(llm, ids) < 0.3 * perplexity(llm, shuffled)


def test_a_lyric_is_lines_and_a_novel_is_sentences(llm: LLM) -> None:
    preset = {"temperature": 0.9, "top_k": 50, "seed": 1}
    lyric = llm.generate("春江潮水连海平，海上明月共潮生。", style="lyric", max_new_tokens=200, **preset).text
    lines = [line for line in lyric.split("\n")[:-1] if line]
    assert len(lines) >= 6
    assert sum(line[-1] in "。，？！；" for line in lines) > 0.8 * len(lines)
    assert max(map(len, lines)) < 40
    novel = llm.generate("话说宋江回到寨中，", style="novel", max_new_tokens=300, **preset).text
    assert novel.count("\n") < 15
    assert novel.count("。") >= 4
    assert "⁇" not in lyric + novel


def test_it_writes_far_past_its_window_without_falling_into_a_loop(llm: LLM) -> None:
    sampling = {"seed": 2, "temperature": 0.95, "top_k": 50, "top_p": 0.95}
    text = llm.generate("话说", style="novel", max_new_tokens=LIMIT + 1000, **sampling).text
    late = text[-400:]
    assert len({late[i : i + 4] for i in range(len(late) - 3)}) > 0.6 * len(late)


def test_specials_of_its_vocabulary_stand_where_cpms_stand() -> None:
    assert [TOKENIZER.special(name) for name in SPECIALS] == list(range(9))
    assert TOKENIZER.special("▂") == 10
    assert TOKENIZER.eod == 7


@settings(max_examples=300, deadline=None)
@given(TEXTS)
@example("我来到北京清华大学 他说：“好。”\n第二行<eod>  end\t\r\n")
@example("黛玉听了，不觉点头自叹，心下自思道：“原来戏上也有好文章。”\n可惜 世人只知看戏。")
@example("▁▂▃ \n")
def test_training_needs_no_jieba_because_its_cuts_do_not_change_the_ids(text: str) -> None:
    assert TOKENIZER.encode(text) == WITHOUT_JIEBA.encode(text.replace(" ", "▂").replace("\n", "▃"))


@settings(deadline=None)
@given(st.text(st.sampled_from("我你的了是在有人这不。，！？ \nab12"), max_size=30))
def test_common_characters_spaces_and_newlines_survive_its_vocabulary(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
