"""The tokenizer against what the original recorded, and what must hold for any text and any ids."""

import json
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.errors import InputError, TokenizerError
from cpm_gen.text.cpm_tokenizer import VOCABULARY_FILE, Tokenizer
from cpm_gen.text.tokenizer import Detokenizer


def sentencepiece_alone(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=(folder / VOCABULARY_FILE).read_bytes())


EMBEDDED_TOKENIZER = Tokenizer(EMBEDDED)
SPECIALS = ["<unk>", "<s>", "</s>", "▃", "<sep>", "<pad>", "<mask>", "<eod>", "▁"]  # ids 0 to 8
SENTENCE_ENDS = "。！？…"

TEXTS = st.text(
    st.characters(codec="utf-8") | st.sampled_from("我你的了是，。！？“”…,.!? \n\r\t\0\u3000▁▂▃<eod>😀\ufeff\u0301"),
    max_size=40,
)


@pytest.fixture(scope="module")
def real(reference) -> Tokenizer:
    return Tokenizer(reference / "vocab")


@pytest.fixture(scope="module")
def rows(reference) -> list[dict]:
    lines = (reference / "original" / "tokenizer.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def vocabulary(folder: Path, content: bytes) -> Path:
    (folder / VOCABULARY_FILE).write_bytes(content)
    return folder


# the original


def test_ids_are_the_originals_for_every_recorded_text(real, rows):
    assert len(rows) == 209
    for row in rows:
        assert real.encode(row["text"]) == row["ids"], row["text"]


def test_decoded_text_is_the_originals_for_every_recorded_text(real, rows):
    for row in rows:
        assert real.decode(row["ids"]) == row["decoded"], row["text"]


def test_specials_of_the_real_vocabulary_stand_where_the_design_says(real):
    assert [real.special(name) for name in SPECIALS] == list(range(9))
    assert real.special("▂") == 10
    assert real.eod == 7
    assert real.size == 30000


# encoding


@settings(max_examples=200, deadline=None)
@given(TEXTS)
@example("\0")
@example("a\0b")
@example("")
@example("👩‍👩‍👧‍👦 \U0010ffff \x1b[0m \u202e")
@example("字" * 3000)
def test_any_unicode_text_can_be_encoded(text):
    ids = EMBEDDED_TOKENIZER.encode(text)
    assert all(0 <= i < EMBEDDED_TOKENIZER.size for i in ids)


def test_any_recorded_or_odd_text_can_be_encoded_with_the_real_vocabulary(real):
    @settings(max_examples=150, deadline=None)
    @given(TEXTS)
    def check(text):
        assert all(0 <= i < real.size for i in real.encode(text))

    check()


def test_empty_text_has_no_tokens(real):
    assert EMBEDDED_TOKENIZER.encode("") == real.encode("") == []


@settings(deadline=None)
@given(st.text(max_size=10), st.integers(0xD800, 0xDFFF), st.text(max_size=10))
def test_lone_surrogate_is_an_input_error_that_names_its_position(before, surrogate, after):
    with pytest.raises(InputError, match=rf"surrogate at character {len(before)}\b"):
        EMBEDDED_TOKENIZER.encode(before + chr(surrogate) + after)


@pytest.mark.parametrize(
    "use", [EMBEDDED_TOKENIZER.written, EMBEDDED_TOKENIZER.encode_with_specials], ids=lambda use: use.__name__
)
def test_every_reading_of_a_text_refuses_what_is_no_text(use):
    with pytest.raises(InputError, match=r"surrogate at character 7\b"):
        use("我<sep>\n\ud800")
    with pytest.raises(InputError, match="must be text"):
        use(b"bytes")


@pytest.mark.parametrize("name", ["<eod>", "<sep>", "<pad>", "<mask>", "<s>", "</s>"])
def test_specials_written_in_a_text_stay_text(real, name):
    for tokenizer in (real, EMBEDDED_TOKENIZER):
        ids = tokenizer.encode(f"我{name}你")
        assert tokenizer.special(name) not in ids
        assert tokenizer.decode(ids) == f"我{name}你"


def test_several_threads_encode_as_one_does():
    texts = [f"第{n}章 他走进来，说：“{n}个人。”\n" * 5 for n in range(40)]
    expected = [EMBEDDED_TOKENIZER.encode(text) for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(EMBEDDED_TOKENIZER.encode, texts)) == expected
        assert list(pool.map(EMBEDDED_TOKENIZER.decode, expected)) == [EMBEDDED_TOKENIZER.decode(e) for e in expected]


# decoding


@settings(deadline=None)
@given(st.lists(st.integers(0, EMBEDDED_TOKENIZER.size - 1), max_size=60))
def test_detokenizers_pieces_join_to_the_decoded_text(ids):
    reader = Detokenizer(EMBEDDED_TOKENIZER)
    assert "".join([reader.push(i) for i in ids]) == EMBEDDED_TOKENIZER.decode(ids)


@settings(deadline=None)
@given(TEXTS)
def test_detokenizers_pieces_join_to_the_decoded_text_of_any_text(text):
    ids = EMBEDDED_TOKENIZER.encode(text)
    reader = Detokenizer(EMBEDDED_TOKENIZER)
    assert "".join([reader.push(i) for i in ids]) == EMBEDDED_TOKENIZER.decode(ids)


@settings(deadline=None)
@given(st.lists(st.integers(0, EMBEDDED_TOKENIZER.size - 1), max_size=40), st.integers(0, 40))
def test_decoding_is_incremental(ids, cut):
    decode = EMBEDDED_TOKENIZER.decode
    assert decode(ids) == decode(ids[:cut]) + decode(ids[cut:])


def test_decoding_is_what_the_original_does_with_every_single_id(real, reference):
    bare = sentencepiece_alone(reference / "vocab")
    for i in range(real.size):
        # a second token keeps SentencePiece from dropping what it takes for a leading space
        expected = bare.decode([16, i]).replace(" ", "").replace("▂", " ").replace("▃", "\n").removeprefix("我")
        assert real.decode([i]) == expected, i


def test_no_decoded_text_holds_the_marks_of_spaces_and_newlines(real):
    for tokenizer in (real, EMBEDDED_TOKENIZER):
        text = tokenizer.decode(range(tokenizer.size))
        assert not set(text) & set("▁▂▃")
        assert tokenizer.decode([10, 3]) == " \n"


def test_eod_reads_as_itself_or_as_what_the_detokenizer_is_told():
    eod = EMBEDDED_TOKENIZER.eod
    assert EMBEDDED_TOKENIZER.decode([eod]) == "<eod>"
    assert Detokenizer(EMBEDDED_TOKENIZER).push(eod) == "<eod>"
    assert Detokenizer(EMBEDDED_TOKENIZER, eod_text="\n").push(eod) == "\n"
    assert Detokenizer(EMBEDDED_TOKENIZER, eod_text="").push(eod) == ""


@pytest.mark.parametrize("outside", [-1, EMBEDDED_TOKENIZER.size, 10**12])
def test_id_outside_the_vocabulary_is_an_input_error_that_names_it(outside):
    last = EMBEDDED_TOKENIZER.size - 1
    for use in (
        Detokenizer(EMBEDDED_TOKENIZER).push,
        EMBEDDED_TOKENIZER.surface,
        lambda i: EMBEDDED_TOKENIZER.decode([9, i]),
    ):
        with pytest.raises(InputError, match=rf"{outside} .*0 to {last}"):
            use(outside)


# boundaries of windows


def test_token_boundary_is_any_and_eod_boundary_is_eod_alone(real):
    for tokenizer in (real, EMBEDDED_TOKENIZER):
        assert tokenizer.boundary_ids("token") is None
        assert tokenizer.boundary_ids("eod") == {tokenizer.eod}


def test_sentences_end_after_eod_newlines_and_full_stops(real):
    for tokenizer in (real, EMBEDDED_TOKENIZER):
        ends = tokenizer.boundary_ids("sentence")
        assert {tokenizer.eod, tokenizer.special("▃")} <= ends
        for mark in SENTENCE_ENDS:
            assert tokenizer.encode("好" + mark)[-1] in ends, mark
        for text in ("我", "，", "、", "：", "“", " ", "a"):
            assert tokenizer.encode("好" + text)[-1] not in ends, text
        for i in range(tokenizer.size):
            if tokenizer.surface(i).endswith((*SENTENCE_ENDS, "\n")):
                assert i in ends


# what cannot be loaded


def test_the_folder_and_the_file_itself_name_the_same_vocabulary():
    assert Tokenizer(EMBEDDED / VOCABULARY_FILE).path == Tokenizer(str(EMBEDDED)).path == EMBEDDED / VOCABULARY_FILE


@pytest.mark.parametrize("name", [".", "nowhere", "nowhere/other.model"])
def test_missing_vocabulary_is_an_error_that_names_the_place(tmp_path, name):
    with pytest.raises(TokenizerError, match=VOCABULARY_FILE) as caught:
        Tokenizer(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("keep", [1, 1000, -1])
def test_cut_off_vocabulary_is_an_error_and_nothing_is_printed(tmp_path, capfd, keep):
    content = (EMBEDDED / VOCABULARY_FILE).read_bytes()[:keep]
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        Tokenizer(vocabulary(tmp_path, content))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"\0" * 500, "begins with 500 zero bytes"),
        (b"{}", "JSON, not the vocabulary"),
        ("一首歌".encode(), "not a SentencePiece model"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer, not the vocabulary"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x1f\x8b\x08\x00", "packed with gzip"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_file_of_another_kind_is_an_error_that_says_what_it_is(tmp_path, content, says):
    with pytest.raises(TokenizerError, match=says) as caught:
        Tokenizer(vocabulary(tmp_path, content))
    assert str(caught.value).startswith(str(tmp_path / VOCABULARY_FILE))
    assert "sentencepiece_processor" not in str(caught.value)  # the library's inner state says nothing to a person


def test_a_piece_that_is_not_utf8_is_an_error(tmp_path):
    content = (EMBEDDED / VOCABULARY_FILE).read_bytes()
    piece = "山".encode()
    assert piece in content
    with pytest.raises(TokenizerError, match="not a SentencePiece model"):
        Tokenizer(vocabulary(tmp_path, content.replace(piece, b"\xff\xfe\xfd")))


def test_vocabulary_without_eod_is_an_error(tmp_path):
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["我 你 他", "你 他 我", "他 我 你"]),
        model_writer=model,
        vocab_size=8,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(TokenizerError, match="no piece '<eod>'"):
        Tokenizer(vocabulary(tmp_path, model.getvalue()))


def test_special_that_does_not_exist_is_an_error():
    with pytest.raises(TokenizerError, match="no piece '<nothing>'"):
        EMBEDDED_TOKENIZER.special("<nothing>")
