"""How prompts become tokens in each style."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.errors import InputError
from cpm_gen.text.cpm_tokenizer import Tokenizer
from cpm_gen.text.prompt_styles import detokenizer, encode_prompt

TOKENIZER = Tokenizer(EMBEDDED)
EOD = TOKENIZER.eod
ids = TOKENIZER.encode

# what may lie between two <eod>
PIECES = st.lists(
    st.sampled_from(["", " ", "\n", "\r\n", " \n ", "明月", "几时有", " 床前 ", "\n疑是\n", "举头\r\n低头", "a b"]),
    min_size=1,
    max_size=6,
)


def lf(text: str) -> str:
    return re.sub("\r\n?", "\n", text)


def outer_stripped(pieces: list[str]) -> list[str]:
    """The pieces of the text that is stripped before it is split."""
    pieces = [lf(piece) for piece in pieces]
    pieces[0] = pieces[0].lstrip()
    pieces[-1] = pieces[-1].rstrip()
    return pieces


def test_prompts_become_the_context_ids_that_the_original_recorded(reference):
    tokenizer = Tokenizer(reference / "vocab")
    runs = json.loads((reference / "original" / "generate.json").read_text(encoding="utf-8"))
    assert {run["script"].split("_")[0] for run in runs} == {"novel", "lyric"}
    for run in runs:
        style = run["script"].split("_")[0]
        assert encode_prompt(style, run["prompt"], tokenizer) == run["context_ids"], run["name"]


@settings(deadline=None)
@given(PIECES)
def test_novel_encodes_the_stripped_pieces_one_by_one_and_joins_them(pieces):
    text = "<eod>".join(pieces)
    expected = [i for piece in outer_stripped(pieces) for i in ids(piece.strip())]
    if expected:
        assert encode_prompt("novel", text, TOKENIZER) == expected
    else:
        with pytest.raises(InputError):
            encode_prompt("novel", text, TOKENIZER)


@settings(deadline=None)
@given(PIECES)
def test_lyric_of_the_original_ends_every_piece_that_was_not_empty_with_eod(pieces):
    text = "<eod>".join(pieces)
    expected = []
    for piece in outer_stripped(pieces):
        if len(piece) > 0:
            expected += ids(piece.strip())
            expected.append(EOD)
    if expected:
        assert encode_prompt("lyric", text, TOKENIZER, "eod") == expected
    else:
        with pytest.raises(InputError):
            encode_prompt("lyric", text, TOKENIZER, "eod")


@settings(deadline=None)
@given(PIECES)
def test_lyric_ends_every_line_of_such_a_piece_with_eod(pieces):
    text = "<eod>".join(pieces)
    lines = [line for piece in outer_stripped(pieces) if len(piece) > 0 for line in piece.strip().split("\n")]
    expected = [i for line in lines for i in (*ids(line.strip()), EOD)]
    if expected:
        assert encode_prompt("lyric", text, TOKENIZER) == expected
    else:
        with pytest.raises(InputError):
            encode_prompt("lyric", text, TOKENIZER)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "<eod>", "<eod>\n", " \n "])
def test_newlines_end_lines_of_a_lyric_as_eod_does(newline):
    expected = [*ids("床前明月光"), EOD, *ids("疑是地上霜"), EOD]
    assert encode_prompt("lyric", f"床前明月光{newline}疑是地上霜{newline}", TOKENIZER) == expected


def test_a_lyric_of_several_lines_is_what_the_page_sends_for_it():
    text = "床前明月光\n\n\n疑是 地上霜"
    page = "<eod>".join(line or " " for line in text.split("\n"))
    assert encode_prompt("lyric", text, TOKENIZER) == encode_prompt("lyric", page, TOKENIZER)


def test_lyric_ends_the_last_line_too():
    assert encode_prompt("lyric", "明月几时有", TOKENIZER) == [*ids("明月几时有"), EOD]
    assert encode_prompt("lyric", "明月几时有<eod>\n", TOKENIZER) == [*ids("明月几时有"), EOD]


def test_blank_line_in_a_lyric_is_a_lone_eod():
    text = "明月几时有<eod>\n<eod>\n把酒问青天<eod>\n"
    assert encode_prompt("lyric", text, TOKENIZER) == [*ids("明月几时有"), EOD, EOD, *ids("把酒问青天"), EOD]


def test_nothing_between_two_eod_is_nothing():
    assert encode_prompt("lyric", "明<eod><eod>月", TOKENIZER) == [*ids("明"), EOD, *ids("月"), EOD]


@pytest.mark.parametrize("style", ["lyric", "novel", "plain"])
@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
def test_crlf_and_cr_read_as_lf(style, line_end):
    text = "第一行 甲\n第二行<eod>\n\n第三行\n"
    assert encode_prompt(style, text.replace("\n", line_end), TOKENIZER) == encode_prompt(style, text, TOKENIZER)


@pytest.mark.parametrize("style", ["lyric", "novel"])
def test_newlines_within_a_piece_of_the_original_stay(style):
    newline = ids("\n")
    got = encode_prompt(style, "甲\n\n乙", TOKENIZER, "eod")
    assert got[: len(got) - (style == "lyric")] == [*ids("甲"), *newline, *newline, *ids("乙")]


def test_eod_leaves_no_token_in_a_novel():
    got = encode_prompt("novel", " 他走了 <eod>\n雨停了 ", TOKENIZER)
    assert got == [*ids("他走了"), *ids("雨停了")]
    assert EOD not in got


@settings(deadline=None)
@given(st.text(st.sampled_from("明月 \r\n"), max_size=8).filter(str.strip))
def test_plain_takes_the_text_as_it_is_but_for_line_ends(text):
    assert encode_prompt("plain", text, TOKENIZER) == ids(lf(text))


def test_eod_in_a_plain_text_is_five_characters():
    got = encode_prompt("plain", "明<eod>月", TOKENIZER)
    assert EOD not in got
    assert TOKENIZER.decode(got) == "明<eod>月"


@pytest.mark.parametrize("style", ["lyric", "novel", "plain"])
@pytest.mark.parametrize("text", ["", " ", "\n\r\n\t", "\u3000"])
def test_empty_prompts_are_input_errors(style, text):
    with pytest.raises(InputError, match="empty"):
        encode_prompt(style, text, TOKENIZER)


@pytest.mark.parametrize("style", ["lyric", "novel"])
@pytest.mark.parametrize("text", ["<eod>", "<eod><eod>", "\n<eod>\n"])
def test_prompts_of_eod_alone_are_input_errors(style, text):
    with pytest.raises(InputError):
        encode_prompt(style, text, TOKENIZER)


def test_text_that_the_normaliser_drops_whole_is_an_input_error(reference):
    with pytest.raises(InputError, match="no token"):
        encode_prompt("plain", "\ufeff\u200b", Tokenizer(reference / "vocab"))


@pytest.mark.parametrize(("style", "text"), [("lyric", "\n"), ("novel", "<eod>"), ("plain", "<eod>")])
def test_eod_reads_as_a_newline_in_lyrics_and_as_itself_elsewhere(style, text):
    reader = detokenizer(style, TOKENIZER)
    line = ids("明月几时有")
    assert "".join(reader.push(i) for i in [*line, EOD, *line]) == f"明月几时有{text}明月几时有"
