"""What a stop string matches with a vocabulary that normalises, and special pieces in prompts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import cpm_gen
from cpm_gen.checkpoints.formats import megatron
from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.config.options import StyleName
from cpm_gen.errors import ConfigError
from cpm_gen.llm import LLM
from cpm_gen.text.cpm_tokenizer import Tokenizer
from cpm_gen.text.prompt_styles import detokenizer, encode_prompt
from cpm_gen.text.stop_strings import find_stops


@pytest.fixture(scope="module")
def real(reference: Path) -> Tokenizer:
    return Tokenizer(reference / "vocab")


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with cpm_gen.load() as llm:
        yield llm


@pytest.mark.parametrize("stop", [*"，！？：；（）", "……", "他说：", "Ａ"])
def test_a_stop_string_matches_what_the_vocabulary_writes_for_it(real: Tokenizer, stop: str) -> None:
    found = find_stops([stop], real, detokenizer("plain", real))
    written = real.decode(real.encode(stop))
    assert found.strings == (stop, written)
    assert written != stop
    assert (found.ids, found.never) == (frozenset(), ())


@pytest.mark.parametrize("stop", ["\n", " ", "。", "完了吗", "\n\n"])
def test_a_stop_string_that_the_vocabulary_writes_as_it_is_stays(real: Tokenizer, stop: str) -> None:
    assert find_stops([stop], real, detokenizer("plain", real)).strings == (stop,)


@pytest.mark.parametrize("name", ["<sep>", "</s>", "<s>", "<pad>", "<mask>", "<unk>"])
@pytest.mark.parametrize("style", ["plain", "novel", "lyric"])
def test_the_name_of_a_special_piece_stops_by_its_token(real: Tokenizer, name: str, style: StyleName) -> None:
    found = find_stops([name], real, detokenizer(style, real))
    assert found.ids == {real.special(name)}
    assert found.never == ()


def test_eod_stops_by_its_token_in_lyrics_where_it_reads_as_a_newline(real: Tokenizer) -> None:
    assert find_stops(["<eod>"], real, detokenizer("lyric", real)).ids == {real.eod}
    assert find_stops(["<eod>"], real, detokenizer("plain", real)).ids == frozenset()


def test_a_stop_string_that_no_text_can_hold_is_said(real: Tokenizer) -> None:
    assert find_stops(["😀", "。"], real, detokenizer("plain", real)).never == ("😀",)


def test_a_text_ends_at_the_token_of_a_special_piece(llm: LLM) -> None:
    options = {"style": "lyric", "seed": 1, "max_new_tokens": 60}
    stopped = llm.generate("明月几时有", stop=["<eod>"], **options)
    assert stopped.finish_reason == "stop"
    assert stopped.token_ids[-1] == llm.tokenizer.eod
    assert stopped.text == llm.generate("明月几时有", **options).text.split("\n")[0]


def test_special_pieces_are_text_in_a_prompt_unless_asked_for(real: Tokenizer) -> None:
    sep = real.special("<sep>")
    for style in ("plain", "novel", "lyric"):
        assert sep not in encode_prompt(style, "床前<sep>明月", real)
        ids = encode_prompt(style, "床前<sep>明月", real, special_pieces=True)
        assert ids[: len(real.encode("床前")) + 1] == [*real.encode("床前"), sep]


def test_unknown_characters_and_names_of_special_pieces_are_remarked(real: Tokenizer) -> None:
    (unknown,) = real.remarks("春眠不覺曉😀", as_text=True)
    assert "曉😀" in unknown
    assert real.remarks("春眠", as_text=True) == []
    (name,) = real.remarks("床前<sep>", as_text=True)
    assert "<sep>" in name
    assert "--special-pieces" in name
    assert real.remarks("床前<sep>", as_text=False) == []


def always(token: int, folder: Path) -> Path:
    """The embedded model with a head that prefers one token to all others."""
    cpm_gen.reshard(EMBEDDED, 1, folder)
    (path,) = megatron.open_shards(folder).checkpoint.files
    content = torch.load(path, weights_only=True)
    tensors = content.get("module", content)
    for name, tensor in tensors.items():
        tensor.zero_()
        if name == "word_embeddings.weight":
            tensor[token, 0] = 1
        if name == "transformer.final_layernorm.bias":
            tensor[0] = 5
    torch.save(content, path)
    return folder


def test_unk_is_not_written_unless_asked_for(tmp_path: Path) -> None:
    folder = always(0, tmp_path / "model")
    options = {"temperature": 0, "max_new_tokens": 4}
    with cpm_gen.load(folder) as llm:
        assert 0 not in llm.generate("从前", **options).token_ids
    with cpm_gen.load(folder, special_pieces=True) as llm:
        assert llm.generate("从前", **options).token_ids == (0,) * 4


def test_more_least_tokens_than_most_are_refused(llm: LLM) -> None:
    with pytest.raises(ConfigError, match="min_new_tokens must be at most max_new_tokens, which is 5, not 6"):
        llm.generate("从前", min_new_tokens=6, max_new_tokens=5)
    assert len(llm.generate("从前", min_new_tokens=5, max_new_tokens=5).token_ids) == 5


def test_the_name_of_a_special_piece_read_as_its_token_has_no_unknown_characters(reference: Path) -> None:
    tokenizer = Tokenizer(reference / "hf/ok/cpm-small-hub")  # has no piece for some letters of the names
    assert tokenizer.unknown("<sep>")
    assert "<" in tokenizer.remarks("月<sep>", as_text=True)[0]
    assert not [remark for remark in tokenizer.remarks("月<sep>", as_text=False) if remark.endswith("p>")]
