"""Lines of a batch: whatever they hold, each has one result, and no two have the same id."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpm_gen.batch.lines import Line, LineReader
from cpm_gen.batch.output_file import Written

LINE = st.one_of(
    st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"")),
    st.fixed_dictionaries(
        {"prompt": st.text(max_size=3)},
        optional={
            "id": st.one_of(
                st.sampled_from(["a", "b", 1, 2, True, None, "", 1.0]), st.text(max_size=2), st.lists(st.none())
            )
        },
    ).map(lambda content: json.dumps(content).encode()),
    st.sampled_from([b"", b" ", b"{", b"[]", b'{"id": "\\ud800"}', b'{"custom_id": "a", "body": {}}', b"[" * 5000]),
)


def read(lines: list[bytes], written: Written) -> list[Line]:
    return list(LineReader(lines, written))


@given(st.lists(LINE, max_size=12))
def test_each_line_has_one_result_and_a_second_run_finds_all_of_them(lines: list[bytes]) -> None:
    written = Written()
    found = read(lines, written)
    assert len(found) == sum(bool(raw.decode("utf-8", "replace").removeprefix("\ufeff").strip()) for raw in lines)
    ids = [line.id for line in found if line.id is not None]
    assert len({(type(i), i) for i in ids}) == len(ids)
    for line in found:
        assert (line.id is None) == (line.error is not None)
        assert written.add(line.failed(line.error or "x") if line.id is None else {"id": line.id, "text": ""})
    again = LineReader(lines, written)
    assert list(again) == []
    assert (again.read, again.skipped) == (len(found), len(found))


def test_a_line_without_an_id_has_its_number_and_one_with_that_number_comes_too_late() -> None:
    first, second, third = read([b'{"prompt": "x"}', b"", b'{"prompt": "y"}', b'{"id": 3, "prompt": "z"}'], Written())
    assert (first.id, second.id, third.id) == (1, 3, None)
    assert third.error == "line 4: the id 3 is that of an earlier line"


@pytest.mark.parametrize("id", ["\u5b57", "x" * 512, 0, -1, 10**30])
def test_ids_are_kept_as_they_are(id: str | int) -> None:
    (line,) = read([json.dumps({"id": id}).encode()], Written())
    assert (line.id, type(line.id)) == (id, type(id))
