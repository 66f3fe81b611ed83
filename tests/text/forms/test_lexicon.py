"""Vocabularies of every kind can write a form."""

import random

import pytest

from cpm_gen.text.find_tokenizer import open_tokenizer
from cpm_gen.text.forms.check import check
from cpm_gen.text.forms.lexicon import Lexicon
from cpm_gen.text.forms.masks import FormMasks
from cpm_gen.text.forms.notation import parse
from cpm_gen.text.prompt_styles import detokenizer
from cpm_gen.text.tokenizer import TextTokenizer
from tests.text.vocabularies import bert, byte_level

VERSE = "韵: 通韵\n5，5a。\n5，5a。"


def written(tokenizer: TextTokenizer, text: str, seed: int) -> str:
    reader = detokenizer("lyric", tokenizer)
    masks = FormMasks(parse(text), Lexicon(tokenizer, reader.can_show("\n"), tokenizer.size))
    draw, state, said = random.Random(seed), masks.begin(), ""
    while not masks.finished(state):
        token = int(draw.choice(masks.allowed(state)))
        state = masks.advance(state, token)
        said += reader.push(token)
    return said + reader.flush()


@pytest.mark.parametrize("kind", [bert, byte_level])
def test_a_small_vocabulary_writes_verse(tmp_path, kind):
    pytest.importorskip("tokenizers")
    tokenizer = open_tokenizer(kind(tmp_path / "model"))
    for seed in range(5):
        assert check(parse(VERSE), written(tokenizer, VERSE, seed)) == []


@pytest.mark.parametrize("form", [VERSE, "词牌: 浣溪沙", "4-6，5a\n2+3a\n叠2"])
def test_the_real_vocabulary_writes_verse(reference, form):
    """Its signs are half-width ones, and a bare ``▁`` without width may stand before them."""
    tokenizer = open_tokenizer(reference / "vocab")
    for seed in range(5):
        assert check(parse(form), written(tokenizer, form, seed)) == []
