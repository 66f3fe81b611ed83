"""Texts to measure on: text files, records, JSON lines and folders."""

import json
from pathlib import Path

import pytest

from cpm_gen.errors import InputError
from cpm_gen.text.documents import read_documents


def test_a_text_file_is_one_document_or_one_for_each_record(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeff床前\r\n明月\r\n\r\n \r\n疑是\r\n".encode())
    (whole,) = read_documents(file)
    assert (whole.name, whole.text) == ("a.txt", "床前\n明月\n\n \n疑是")
    assert [(d.name, d.text) for d in read_documents(file, records=True)] == [
        ("a.txt, record 1", "床前\n明月"),
        ("a.txt, record 2", "疑是"),
    ]


def test_json_lines_keep_their_line_numbers(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes('\ufeff{"text": "春"}\r\n\r\n{"text": "江", "more": 1}'.encode())
    assert [(d.name, d.text) for d in read_documents(file)] == [("a.jsonl, line 1", "春"), ("a.jsonl, line 3", "江")]


def test_a_folder_is_its_files_by_path(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.txt").write_text("二", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "一"}), encoding="utf-8")
    (tmp_path / "notes.md").write_text("not data", encoding="utf-8")
    assert [(d.name, d.text) for d in read_documents(tmp_path)] == [("a.jsonl, line 1", "一"), ("b/x.txt", "二")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b"\xef\xbb\xbf \n", "is empty"),
        ("a.txt", b"abc\xff", "not UTF-8 at byte 3"),
        ("a.txt", "从前".encode("utf-16"), "UTF-16"),
        ("a.txt", "从前有座山".encode("gbk"), "not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": 5}', 'line 2: needs "text"'),
        ("a.jsonl", b'["x"]', "line 1: must be a JSON object"),
        ("a.jsonl", b"text", "line 1: not JSON"),
    ],
)
def test_a_bad_file_is_named_with_its_place(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        read_documents(tmp_path / name)
    assert name in str(error.value)


def test_paths_without_data_are_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_documents(tmp_path / "none.txt")
    with pytest.raises(InputError, match="without"):
        read_documents(tmp_path)
    with pytest.raises(InputError, match="empty"):
        read_documents("")
