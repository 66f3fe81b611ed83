"""The file of a batch's results: cut at any place it gives the whole results before it, and takes the rest."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpm_gen.batch.output_file import OutputFile
from cpm_gen.errors import InputError

RESULTS = [
    {"id": "春", "text": "江\n", "token_ids": [1, 2], "finish_reason": "length", "seed": 1},
    {"id": 7, "samples": [], "seed": 2},
    {"id": None, "line": 3, "error": "line 3: a lone \ud800"},
    {"id": "\ud800", "error": "x"},
    {"id": "", "text": ""},
]


def written(path: Path, *results: dict[str, object]) -> bytes:
    output = OutputFile(path)
    for result in results:
        output.append(result)
    output.close()
    return path.read_bytes()


def test_results_are_read_again_as_they_were_written(tmp_path: Path) -> None:
    content = written(tmp_path / "out", *RESULTS)
    assert [json.loads(line) for line in content.splitlines()] == RESULTS
    content.decode("utf-8")
    output = OutputFile(tmp_path / "out")
    assert (output.written.ids, output.written.lines) == ({"春", 7, "\ud800", ""}, {3})
    assert (len(output.written), output.written.errors) == (5, 2)
    output.close()


@given(st.data())
def test_a_file_that_was_cut_anywhere_is_completed(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "out"
    whole = written(path, *RESULTS)
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    output = OutputFile(path)
    kept = len(output.written)
    assert kept == whole[:cut].count(b"\n")
    output.close()
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:kept])
    assert written(path, *RESULTS[kept:]) == whole


@pytest.mark.parametrize(
    "content",
    [
        b"novel",
        b"novel\n",
        b"{}\n",
        b"[]\n",
        b'{"id": "a"}\n',
        b'{"id": "a", "prompt": "x"}\n',
        b'{"id": true, "text": ""}\n',
        b'{"id": [], "text": ""}\n',
        b'{"id": null, "text": ""}\n',
        b'{"id": "a", "text": ""}\n{"id": "a", "text": ""}\n',
        b'{"id": "a", "text": ""}\n\n',
        b'{"id": "a", "text": ""}\n{"prompt',
        b"\xff\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_a_file_that_holds_something_else_is_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "out"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"line \d: is no result of a batch"):
        OutputFile(path)
    assert path.read_bytes() == content


def test_a_second_process_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    output = OutputFile(tmp_path / "out")
    with pytest.raises(InputError, match="another process writes a batch to it"):
        OutputFile(tmp_path / "out")
    output.close()
    OutputFile(tmp_path / "out").close()
