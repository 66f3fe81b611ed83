"""What a prompt's lines and ends are for vocabularies other than CPM's."""

from pathlib import Path

import pytest

from cpm_gen.config.options import ModelOptions, StyleName
from cpm_gen.errors import InputError
from cpm_gen.text.find_tokenizer import find_tokenizer
from cpm_gen.text.prompt_styles import detokenizer, encode_prompt, start_ids
from cpm_gen.text.stop_strings import find_stops
from cpm_gen.text.tokenizer import TextTokenizer
from tests.text.vocabularies import bert, byte_level

pytest.importorskip("tokenizers")

LINES = "床前明月光\n疑是地上霜"


@pytest.fixture(scope="module")
def uer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """``[CLS]`` begins a text, ``[SEP]`` ends it."""
    return find_tokenizer(ModelOptions(tokenizer=str(bert(tmp_path_factory.mktemp("uer")))))


@pytest.fixture(scope="module")
def gpt2_chinese(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    """``[MASK]`` begins a text, ``[CLS]`` ends it, ``[SEP]`` is a newline."""
    folder = str(bert(tmp_path_factory.mktemp("2019")))
    return find_tokenizer(ModelOptions(tokenizer=folder, start_token="[MASK]", end_token="[CLS]"))


@pytest.fixture(scope="module")
def openai(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return find_tokenizer(ModelOptions(tokenizer=str(byte_level(tmp_path_factory.mktemp("bytes")))))


def names(tokenizer: TextTokenizer, ids: list[int]) -> str:
    special = {i: name for name, i in tokenizer.specials.items()}
    return "".join(special.get(i, tokenizer.surface(i)) for i in ids)


@pytest.mark.parametrize(
    "text", [LINES, LINES.replace("\n", "<eod>"), LINES.replace("\n", "<eod>\r\n"), f"\n{LINES}\n"]
)
def test_sep_stands_between_the_lines_of_bert_and_not_where_it_would_end_the_text(
    uer: TextTokenizer, text: str
) -> None:
    assert names(uer, encode_prompt("lyric", text, uer)) == "[CLS]床前明月光[SEP]疑是地上霜"
    assert names(uer, encode_prompt("novel", text, uer)) == "[CLS]床前明月光[SEP]疑是地上霜"


def test_sep_ends_the_last_line_of_a_lyric_where_another_token_ends_the_text(gpt2_chinese: TextTokenizer) -> None:
    assert names(gpt2_chinese, encode_prompt("lyric", LINES, gpt2_chinese)) == "[MASK]床前明月光[SEP]疑是地上霜[SEP]"
    assert names(gpt2_chinese, encode_prompt("novel", LINES, gpt2_chinese)) == "[MASK]床前明月光[SEP]疑是地上霜"


def test_a_prompt_that_begins_with_the_start_token_gets_no_second_one(uer: TextTokenizer) -> None:
    assert names(uer, encode_prompt("novel", "[CLS]床前", uer)) == "[CLS]床前"


def test_plain_takes_the_text_as_it_is(uer: TextTokenizer, openai: TextTokenizer) -> None:
    assert encode_prompt("plain", "床前", uer) == uer.encode("床前")
    assert names(uer, encode_prompt("plain", "[CLS]床前", uer)) == "[CLS]床前"
    assert encode_prompt("plain", LINES, openai) == openai.encode(LINES)


def test_lines_of_bytes_end_with_newlines(openai: TextTokenizer) -> None:
    assert encode_prompt("lyric", LINES, openai) == openai.encode(f"{LINES}\n")
    assert encode_prompt("lyric", "床前<eod>\n<eod>明月", openai) == openai.encode("床前\n\n明月\n")
    assert encode_prompt("novel", f"{LINES}<eod>\n床前", openai) == openai.encode(f"{LINES}\n床前")


@pytest.mark.parametrize("style", ["lyric", "novel"])
def test_ends_of_lines_and_texts_read_as_newlines(
    uer: TextTokenizer, gpt2_chinese: TextTokenizer, openai: TextTokenizer, style: StyleName
) -> None:
    for tokenizer, text in ((uer, "床[SEP]前"), (gpt2_chinese, "床[CLS]前"), (openai, "床<|endoftext|>前")):
        reader = detokenizer(style, tokenizer)
        assert "".join(map(reader.push, tokenizer.encode(text))) + reader.flush() == "床\n前"


def test_what_a_page_shows_goes_back_as_the_same_tokens(gpt2_chinese: TextTokenizer, openai: TextTokenizer) -> None:
    for tokenizer in (gpt2_chinese, openai):
        ids = encode_prompt("novel", LINES, tokenizer)
        reader = detokenizer("novel", tokenizer)
        assert encode_prompt("novel", "".join(map(reader.push, ids)) + reader.flush(), tokenizer) == ids


def test_unconditional_texts_begin_with_the_start_token(
    uer: TextTokenizer, gpt2_chinese: TextTokenizer, openai: TextTokenizer
) -> None:
    cpm = find_tokenizer(ModelOptions())
    found = [names(tokenizer, start_ids(tokenizer)) for tokenizer in (uer, gpt2_chinese, openai, cpm)]
    assert found == ["[CLS]", "[MASK]", "<|endoftext|>", "<eod>"]


def test_a_vocabulary_without_a_start_token_is_told_how_to_get_one(tmp_path: Path) -> None:
    tokenizer = find_tokenizer(ModelOptions(tokenizer=str(bert(tmp_path, pieces=["[UNK]", "床", "前"]))))
    with pytest.raises(InputError, match=r"vocab\.txt.*--start-token"):
        start_ids(tokenizer)
    assert start_ids(tokenizer.with_tokens("床", None)) == [1]


def test_stops_match_lines_lower_case_and_special_tokens(uer: TextTokenizer) -> None:
    def found(stop: str, style: StyleName = "lyric") -> tuple[set[str], set[int], tuple[str, ...]]:
        stops = find_stops([stop], uer, detokenizer(style, uer))
        return set(stops.strings), set(stops.ids), stops.never

    assert found("\n") == ({"\n"}, set(), ())
    assert found("\n", "plain")[2] == ("\n",)
    assert found("The moon")[0] == {"The moon", "the moon"}
    assert found("[CLS]") == ({"[CLS]"}, {uer.start}, ())
    assert found("龘")[2] == ("龘",)
