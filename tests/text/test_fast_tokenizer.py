"""Tokenizers of Hugging Face folders: ids as transformers has them, and texts that arrive token by token."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import InputError, TokenizerError
from cpm_gen.text.find_tokenizer import find_tokenizer, open_tokenizer
from cpm_gen.text.tokenizer import Detokenizer, TextTokenizer
from tests.text.vocabularies import bert, byte_level, models_folder

tokenizers = pytest.importorskip("tokenizers")

FOLDERS = ["cpm-small-hub", "uer-small", "gpt2-chinese-2019", "openai-small", "sharded-small"]
KINDS = ["BERT", "byte-level BPE", "tokenizer.json of bytes", "tokenizer.json of words", "tokenizer.json of CPM"]
TEXTS = st.text(
    st.characters(codec="utf-8")
    | st.sampled_from("床前明月光，。the moon is 2019 \n\t[CLS]<|endoftext|>##😀\ufffd\u0301ÀéＡ"),
    max_size=30,
)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextTokenizer]:
    """A tokenizer of each kind."""
    from cpm_gen.checkpoints.locate import EMBEDDED
    from cpm_gen.text.cpm_tokenizer import Tokenizer
    from cpm_gen.text.export_tokenizer import tokenizer_json

    pytest.importorskip("google.protobuf")
    folder = tmp_path_factory.mktemp("vocabularies")
    words = folder / "words"
    words.mkdir()
    vocabulary = bert(folder / "bert")
    pieces = (vocabulary / "vocab.txt").read_text(encoding="utf-8").splitlines()
    tokenizers.BertWordPieceTokenizer({piece: i for i, piece in enumerate(pieces)}).save(str(words / "tokenizer.json"))
    cpm = folder / "cpm"
    cpm.mkdir()
    (cpm / "tokenizer.json").write_text(tokenizer_json(Tokenizer(EMBEDDED)), encoding="utf-8")
    places = [
        vocabulary,
        byte_level(folder / "bytes"),
        byte_level(folder / "whole", whole=True),
        words,
        cpm,
    ]
    return dict(zip(KINDS, map(open_tokenizer, places), strict=True))


def expected(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((models_folder() / "ok" / f"{name}.expected.json").read_text(encoding="utf-8"))
    return found


def options(name: str, **given: Any) -> ModelOptions:
    ok, other = models_folder() / "ok", expected(name).get("tokenizer_folder")
    return ModelOptions(model=str(ok / name), tokenizer=other and str(ok / other), **given)


def streamed(tokenizer: TextTokenizer, ids: list[int]) -> str:
    reader = Detokenizer(tokenizer)
    return "".join([reader.push(i) for i in ids]) + reader.flush()


# what transformers says


@pytest.mark.parametrize("name", FOLDERS)
def test_every_case_has_the_recorded_ids_and_text(name: str) -> None:
    tokenizer = find_tokenizer(options(name))
    cases = expected(name)["tokenizer_cases"]
    assert len(cases) >= 14
    for case in cases:
        if case["text"] is not None:
            assert tokenizer.encode(case["text"]) == case["ids"], case["text"]
        text = next(case[key] for key in ("plain", "decoded_by_original", "hf_decode") if key in case)
        assert tokenizer.decode(case["ids"]) == streamed(tokenizer, case["ids"]) == text


@pytest.mark.parametrize("name", FOLDERS)
def test_a_text_begins_and_ends_with_the_recorded_tokens(name: str) -> None:
    given = {"start_token": "[MASK]", "end_token": "[CLS]"} if name == "gpt2-chinese-2019" else {}
    tokenizer = find_tokenizer(options(name, **given))
    found = expected(name)
    assert [tokenizer.start] == found["start_ids_for_unconditional"]
    if "end_ids" in found:
        assert [tokenizer.end] == found["end_ids"]


@pytest.mark.parametrize("kind", KINDS[:3])
def test_ids_of_any_text_are_those_of_transformers(kinds: dict[str, TextTokenizer], kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = {"BERT": "BertTokenizer", "byte-level BPE": "GPT2Tokenizer"}.get(kind, "PreTrainedTokenizerFast")
    tokenizer = kinds[kind]
    other = getattr(transformers, theirs).from_pretrained(str(tokenizer.path.parent))

    @settings(max_examples=200, deadline=None)
    @given(TEXTS)
    def check(text: str) -> None:
        assert tokenizer.encode(text) == other.encode(text, add_special_tokens=False)

    check()


# texts that arrive token by token


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_joins_to_the_whole_and_no_piece_cuts_a_character(kinds: dict[str, TextTokenizer], kind: str) -> None:
    tokenizer = kinds[kind]

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(TEXTS)
    @example("床前明月光😀")
    def check(text: str) -> None:
        ids = tokenizer.encode(text)
        reader = Detokenizer(tokenizer)
        pieces = [reader.push(i) for i in ids]
        assert "".join(pieces) + reader.flush() == tokenizer.decode(ids)
        if "\ufffd" not in text:
            assert "\ufffd" not in "".join(pieces)

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_of_any_ids_joins_to_the_whole(kinds: dict[str, TextTokenizer], kind: str) -> None:
    tokenizer = kinds[kind]

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(0, tokenizer.size - 1), max_size=40))
    def check(ids: list[int]) -> None:
        assert streamed(tokenizer, ids) == tokenizer.decode(ids)

    check()


@pytest.mark.parametrize("kind", KINDS[1:3])
def test_bytes_of_any_ids_read_as_the_library_reads_them(kinds: dict[str, TextTokenizer], kind: str) -> None:
    tokenizer = kinds[kind]
    folder = tokenizer.path.parent
    if kind == KINDS[1]:
        library = tokenizers.ByteLevelBPETokenizer.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    else:
        library = tokenizers.Tokenizer.from_file(str(tokenizer.path))

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.integers(0, tokenizer.size - 1), max_size=40))
    def check(ids: list[int]) -> None:
        assert streamed(tokenizer, ids) == library.decode(ids, skip_special_tokens=False)

    check()


def test_a_character_comes_out_whole_with_its_last_token(kinds: dict[str, TextTokenizer]) -> None:
    tokenizer = kinds["byte-level BPE"]
    ids = tokenizer.encode("\U00020000")
    assert len(ids) > 1
    reader = Detokenizer(tokenizer)
    assert [reader.push(i) for i in ids] == [""] * (len(ids) - 1) + ["\U00020000"]
    assert reader.flush() == ""


def test_a_special_token_lets_out_the_bytes_before_it(kinds: dict[str, TextTokenizer]) -> None:
    tokenizer = kinds["byte-level BPE"]
    assert tokenizer.end is not None
    reader = Detokenizer(tokenizer)
    half = tokenizer.encode("\U00020000")[:-1]
    assert [reader.push(i) for i in [*half, tokenizer.end]] == [""] * len(half) + ["\ufffd<|endoftext|>"]
    named = Detokenizer(tokenizer, eod_text="\n")
    assert [named.push(i) for i in [*half, tokenizer.end]][-1] == "\ufffd\n"


# BERT


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("床前 明月 光", "床前明月光"),
        ("The moon is a model", "the moon is a model"),
        ("明月 moon 光", "明月moon光"),
        ("It's a 2019 model?", "it's a 2019 model?"),
        ("qqq 床", "[UNK]床"),
        ("[CLS]床前[SEP]明月", "床前明月"),
        ("unknown", "unknown"),
    ],
)
def test_text_of_bert_has_spaces_only_between_words(kinds: dict[str, TextTokenizer], text: str, shown: str) -> None:
    tokenizer = kinds["BERT"]
    assert tokenizer.decode(tokenizer.encode(text)) == shown


def test_case_and_accents_are_as_the_folder_says(tmp_path: Path) -> None:
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab", "AB", "é", "e"]

    def ids(**config: Any) -> list[int]:
        folder = bert(tmp_path / str(len(config) and sorted(config.items())), pieces=pieces)
        if config:
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return open_tokenizer(folder).encode("AB é")

    assert ids() == [5, 8]  # lower case where nothing says otherwise, and then without accents
    assert ids(do_lower_case=False) == [6, 7]
    assert ids(do_lower_case=True, strip_accents=False) == [5, 7]


def test_special_tokens_of_bert_in_a_text_are_their_tokens(kinds: dict[str, TextTokenizer]) -> None:
    tokenizer = kinds["BERT"]
    assert tokenizer.encode("[CLS]床[SEP]") == [tokenizer.start, tokenizer.special("床"), tokenizer.end]


# start and end


def test_the_files_beside_a_vocabulary_name_the_tokens(tmp_path: Path) -> None:
    both = {
        "special_tokens_map.json": {"sep_token": {"content": "[MASK]"}},
        "tokenizer_config.json": {"bos_token": "床"},
    }
    tokenizer = open_tokenizer(bert(tmp_path / "a", files=both))
    assert (tokenizer.name(tokenizer.start), tokenizer.name(tokenizer.end)) == ("床", "[MASK]")


@pytest.mark.parametrize(("first", "last"), [(50256, 50256), (None, None), (7, 7), (-1, True)])
def test_ids_of_a_config_that_are_no_special_tokens_are_not_believed(
    tmp_path: Path, first: object, last: object
) -> None:
    config = {"config.json": {"bos_token_id": first, "eos_token_id": last}}
    tokenizer = open_tokenizer(bert(tmp_path, files=config))
    assert (tokenizer.name(tokenizer.start), tokenizer.name(tokenizer.end)) == ("[CLS]", "[SEP]")


def test_ids_of_a_config_count_where_nothing_else_names_the_tokens(tmp_path: Path) -> None:
    folder = byte_level(tmp_path, whole=True)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"][0]["content"] = "<text>"
    content["model"]["vocab"]["<text>"] = content["model"]["vocab"].pop("<|endoftext|>")
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert open_tokenizer(folder, folder).start is None
    (folder / "config.json").write_text('{"bos_token_id": 0, "eos_token_id": 0}')
    tokenizer = open_tokenizer(folder, folder)
    assert (tokenizer.start, tokenizer.end) == (0, 0)


def test_settings_replace_the_tokens_and_must_be_pieces(tmp_path: Path) -> None:
    folder = str(bert(tmp_path))
    tokenizer = find_tokenizer(ModelOptions(tokenizer=folder, start_token="[MASK]", end_token="[CLS]"))
    assert (tokenizer.name(tokenizer.start), tokenizer.name(tokenizer.end)) == ("[MASK]", "[CLS]")
    with pytest.raises(TokenizerError, match=r"vocab\.txt: the vocabulary has no piece '\[BOS\]'"):
        find_tokenizer(ModelOptions(tokenizer=folder, start_token="[BOS]"))
    cpm = find_tokenizer(ModelOptions(end_token="<sep>"))
    assert (cpm.end, cpm.line_end, cpm.ends_texts) == (4, 7, True)


# what a tokenizer says and refuses


@pytest.mark.parametrize("kind", KINDS)
def test_ids_outside_and_lone_surrogates_are_input_errors(kinds: dict[str, TextTokenizer], kind: str) -> None:
    tokenizer = kinds[kind]
    uses: list[Callable[[int], object]] = [
        Detokenizer(tokenizer).push,
        tokenizer.surface,
        lambda i: tokenizer.decode([i]),
    ]
    for use in uses:
        for outside in (-1, tokenizer.size, 10**12):
            with pytest.raises(InputError, match=str(outside)):
                use(outside)
    with pytest.raises(InputError, match="surrogate at character 1"):
        tokenizer.encode("床\ud800")


@pytest.mark.parametrize("kind", KINDS)
def test_windows_may_begin_after_lines_and_sentences(kinds: dict[str, TextTokenizer], kind: str) -> None:
    tokenizer = kinds[kind]
    assert tokenizer.boundary_ids("token") is None
    lines, sentences = tokenizer.boundary_ids("eod"), tokenizer.boundary_ids("sentence")
    assert lines is not None
    assert sentences is not None
    assert tokenizer.end in lines
    assert lines <= sentences
    assert tokenizer.encode("光。")[-1] in sentences
    assert tokenizer.encode("光，")[-1] not in sentences
    if tokenizer.line_end is None:
        assert tokenizer.encode("a\n")[-1] in lines


def test_rows_without_a_piece_are_named(tmp_path: Path) -> None:
    folder = bert(tmp_path, pieces=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "床", "床", "前"])
    tokenizer = open_tokenizer(folder)
    assert tokenizer.without_text(10) == [5, 8, 9]  # a piece that comes twice has the later row
    assert tokenizer.decode([5, 7]) == "前"


def test_boundaries_are_found_once_for_each_choice_of_tokens(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(byte_level(tmp_path))
    found = {boundary: tokenizer.boundary_ids(boundary) for boundary in ("eod", "sentence")}
    assert all(tokenizer.boundary_ids(boundary) is ids for boundary, ids in found.items())
    changed = tokenizer.with_tokens(None, "the")
    for boundary, ids in found.items():
        assert changed.boundary_ids(boundary) == ids - {tokenizer.end} | {changed.special("the")}
