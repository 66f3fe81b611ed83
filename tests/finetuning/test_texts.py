"""The texts of a run: how documents become ids, which are held out, and files that list several."""

from pathlib import Path

import pytest

from cpm_gen.errors import ConfigError, InputError
from cpm_gen.finetuning.texts import Source, encode_sources, find_sources
from cpm_gen.text.cpm_tokenizer import Tokenizer
from tests.finetuning.conftest import song


def test_a_song_is_its_lines_and_one_more_end(tmp_path: Path, tokenizer: Tokenizer) -> None:
    first, second = song(1).split("\n")[:2]
    (tmp_path / "a.txt").write_text(f"{first}\n{second}\n\n{second}\n", encoding="utf-8")
    sources = find_sources([str(tmp_path / "a.txt")], "lyric", records=None)
    (encoded,) = encode_sources(sources, tokenizer, 0.0).sources
    eod = tokenizer.eod
    a, b = tokenizer.encode(first), tokenizer.encode(second)
    one, two = [*a, eod, *b, eod, eod], [*b, eod, eod]
    assert encoded.train.tolist() in (one + two, two + one)
    assert (encoded.documents, encoded.held_documents, len(encoded.held)) == (2, 0, 0)


def test_a_novel_loses_blank_lines_and_keeps_newlines(tmp_path: Path, tokenizer: Tokenizer) -> None:
    first, second = song(1).split("\n")[:2]
    (tmp_path / "a.txt").write_text(f"{first}\n \n\n{second}\n", encoding="utf-8")
    (encoded,) = encode_sources([Source(str(tmp_path), "novel")], tokenizer, 0.0).sources
    assert encoded.train.tolist() == [*tokenizer.encode(f"{first}\n{second}"), tokenizer.eod]


def test_a_first_line_stands_before_each_document(tmp_path: Path, tokenizer: Tokenizer) -> None:
    title = song(9).split("\n")[0]
    (tmp_path / "a.txt").write_text(song(1, 1) + "\n\n" + song(2, 1), encoding="utf-8")
    source = Source(str(tmp_path), "lyric", records=True, first_line=title)
    (encoded,) = encode_sources([source], tokenizer, 0.0).sources
    text = tokenizer.decode(encoded.train.tolist())
    assert text.count(title) == 2


@pytest.mark.parametrize(("documents", "held"), [(2, 1), (20, 1), (40, 2), (100, 5)])
def test_a_share_of_the_documents_is_held_out(tmp_path: Path, tokenizer: Tokenizer, documents: int, held: int) -> None:
    for n in range(documents):
        (tmp_path / f"{n:03}.txt").write_text(song(n, 1), encoding="utf-8")
    once = encode_sources([Source(str(tmp_path), "lyric")], tokenizer, 0.05)
    again = encode_sources([Source(str(tmp_path), "lyric")], tokenizer, 0.05)
    assert once.sources[0].held_documents == held
    assert once.fingerprint == again.fingerprint
    first = 1 if documents == 2 else 19  # the last of two, else the twentieth
    assert once.sources[0].beginning == song(first, 1)[:12]
    whole = encode_sources([Source(str(tmp_path), "lyric")], tokenizer, 0.0)
    assert whole.sources[0].beginning == song(0, 1)[:12]
    assert len(whole.sources[0].train) == len(once.sources[0].train) + len(once.sources[0].held)
    assert whole.fingerprint != once.fingerprint


def test_the_end_of_a_single_document_is_held_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text(song(1, 100), encoding="utf-8")
    (encoded,) = encode_sources([Source(str(tmp_path), "novel")], tokenizer, 0.1).sources
    whole = [*tokenizer.encode(song(1, 100)), tokenizer.eod]
    assert encoded.train.tolist() + encoded.held.tolist() == whole
    assert len(encoded.held) == len(whole) // 10


def test_a_blank_source_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": " "}\n', encoding="utf-8")
    with pytest.raises(InputError, match="holds no text"):
        encode_sources([Source(str(tmp_path), "novel")], tokenizer, 0.1)


def test_a_yaml_file_lists_sources_beside_it(tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text(
        "texts:\n- {path: songs, share: 3, first_line: 【歌】}\n- {path: book.txt, style: novel, share: 1, records: true}\n",
        encoding="utf-8",
    )
    assert find_sources([str(tmp_path / "mix.yaml")], "lyric", records=None) == [
        Source(f"{tmp_path}/songs", "lyric", 3.0, True, "【歌】"),
        Source(f"{tmp_path}/book.txt", "novel", 1.0, True, ""),
    ]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("texts: []", "must hold a list under the key texts"),
        ("other: 1", "must hold a list under the key texts"),
        ("texts: [3]", "entry 1: must be a mapping with a path"),
        ("texts: [{path: a, shares: 1}]", "entry 1: 'shares' is no key; known are path, style, share"),
        ("texts: [{path: a, style: poem}]", "entry 1: style must be lyric or novel or plain, not 'poem'"),
        ("texts: [{path: a, share: 0}]", "entry 1: share must be a number above 0, not 0"),
        ("texts: [{path: a, share: true}]", "entry 1: share must be a number above 0, not True"),
        ("texts: [{path: a, records: 1}]", "entry 1: records must be true or false"),
        ("texts: [{path: a, share: 1}, {path: b}]", "give all sources a share, or none"),
        ("texts: [", "not YAML"),
    ],
)
def test_a_mistake_in_a_list_is_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "mix.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        find_sources([str(tmp_path / "mix.yaml")], "lyric", records=None)
    assert says in str(error.value)
