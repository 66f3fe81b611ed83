"""The embedded vocabulary as a tokenizer.json: the same ids for any text, the same text for any ids."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.errors import TokenizerError
from cpm_gen.text.cpm_tokenizer import Tokenizer
from cpm_gen.text.export_tokenizer import tokenizer_json

tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("google.protobuf")

OURS = Tokenizer(EMBEDDED)
TEXTS = st.text(
    st.characters(codec="utf-8")
    | st.sampled_from("我你的了是一个不知，。！？“”…,.!? \n\r\t\0\u3000▁▂▃<eod>😀\ufeff\u0301Ａ１"),
    max_size=40,
)


@pytest.fixture(scope="module")
def exported():
    return tokenizers.Tokenizer.from_str(tokenizer_json(OURS))


def test_it_gives_our_ids_for_any_text_and_our_text_for_them(exported) -> None:
    @settings(max_examples=400, deadline=None)
    @given(TEXTS)
    @example("我来到北京清华大学 他说：“好。”\n第二行<eod>  end\t\r\n")
    @example("<s></s><sep><pad><mask><unk>▁▂▃")
    @example("老爷道：“这个不知如何。”众人都不能。" * 20)
    def check(text: str) -> None:
        ids = OURS.encode(text)
        assert exported.encode(text).ids == ids
        assert exported.decode(ids, skip_special_tokens=False) == OURS.decode(ids)

    check()


def test_every_piece_reads_the_same(exported) -> None:
    for i in range(OURS.size):
        assert exported.decode([i], skip_special_tokens=False) == OURS.surface(i), i


def test_it_gives_our_ids_for_every_text_that_the_original_was_recorded_with(exported, reference: Path) -> None:
    lines = (reference / "original" / "tokenizer.jsonl").read_text(encoding="utf-8").split("\n")
    texts = [json.loads(line)["text"] for line in lines if line]
    assert len(texts) == 209
    assert [text for text in texts if exported.encode(text).ids != OURS.encode(text)] == []


def test_a_vocabulary_that_depends_on_words_is_refused_with_what_to_do(reference: Path) -> None:
    assert not OURS.uses_words
    for folder in (reference / "vocab", reference / "hf" / "ok" / "cpm-small-hub"):
        if folder.is_dir():
            with pytest.raises(TokenizerError, match=r"jieba.*spiece\.model.*CpmTokenizer gives other ids"):
                tokenizer_json(Tokenizer(folder))
