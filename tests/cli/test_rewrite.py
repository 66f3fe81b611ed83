"""``cpm-gen rewrite``."""

import io
import json
import sys
from pathlib import Path

import pytest

from cpm_gen.cli.main import main
from cpm_gen.text.forms.check import check
from cpm_gen.text.forms.named import named
from tests.cli.conftest import FLAGS, Run

TEXT = "天还没有亮，他便起了床。院子里积了厚厚的一层雪。他站了一会儿，天还没有亮。"
SAMPLING = ("--style", "novel", "--top-k", "50", "--seed", "1", "-n", "2", *FLAGS)


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(TEXT + "\n", encoding="utf-8")
    return str(tmp_path / "text.txt")


def test_find_and_select_name_the_same_passage(run: Run, file: str) -> None:
    status, found, notes = run("rewrite", file, "--find", "院子里积了厚厚的一层雪。", "--json", *SAMPLING)
    assert status == 0
    assert "seed 1" in notes
    content = json.loads(found)
    assert content["selection"]["text"] == "院子里积了厚厚的一层雪。"
    assert len(content["candidates"]) == 2
    status, table, _ = run("rewrite", file, "--select", "12:24", *SAMPLING)
    assert status == 0
    lines = table.splitlines()
    assert lines[1].endswith("院子里积了厚厚的一层雪。")
    assert [line.split()[-1] for line in lines[2:]] == [c["text"] for c in content["candidates"]]


def test_standard_input_is_a_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode()), encoding="utf-8"))
    assert main(["rewrite", "-", "--select", "12:12", "--json", *SAMPLING]) == 0
    assert json.loads(capsys.readouterr().out)["selection"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--select FROM:TO"),
        (("--select", "1:2", "--find", "雪"), "one of them"),
        (("--select", "1-2"), "must be FROM:TO"),
        (("--select", "1:2000"), "must lie in the text"),
        (("--find", "月"), "does not hold"),
        (("--find", ""), "the text is empty"),
        (("--find", "天还没有亮"), "choose one by --select 0:5, 31:36"),
        (("--find", "雪", "--min-new-tokens", "3"), "is not for a rewrite"),
    ],
    ids=str,
)
def test_a_bad_selection_is_one_line_that_says_what_would_be_right(
    run: Run, file: str, words: tuple[str, ...], message: str
) -> None:
    status, shown, notes = run("rewrite", file, *words, *FLAGS)
    assert (status, shown) == (2, "")
    assert message in notes
    assert notes.count("\n") == 1


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_file_without_text_is_one_line(run: Run, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "empty.txt"
    if content is not None:
        path.write_text(content)
    status, shown, notes = run("rewrite", str(path), "--select", "0:0", *FLAGS)
    assert (status, shown) == (2, "")
    assert ("empty" if content is not None else "No such file") in notes.splitlines()[-1]


VERSE = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。\n"


def test_a_line_is_rewritten_in_a_form(run: Run, tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text(VERSE, encoding="utf-8")
    (tmp_path / "form.txt").write_text("体: 五绝\n", encoding="utf-8")
    words = ("rewrite", str(tmp_path / "poem.txt"), "--find", "更上一层楼。", "--json", *SAMPLING)
    status, found, _ = run(*words, "--form", "五绝")
    assert status == 0
    texts = [c["text"] for c in json.loads(found)["candidates"]]
    assert len(texts) == 2
    assert all(check(named("五绝"), VERSE.replace("更上一层楼", text)) == [] for text in texts)
    assert run(*words, "--form-file", str(tmp_path / "form.txt"))[1] == found
    status, _, notes = run(*words, "--form", "五绝", "--form-file", str(tmp_path / "form.txt"))
    assert (status, notes) == (2, "cpm-gen: give the form once: with --form or with --form-file\n")
    verse, line = VERSE.replace("流", "天"), "欲穷千里目，更上一层楼。"
    (tmp_path / "poem.txt").write_text(verse, encoding="utf-8")
    status, found, _ = run(*words[:3], line, *words[4:], "--form", "五绝")
    assert status == 0
    assert [(f.line, f.column, f.kind) for f in check(named("五绝"), verse)] == [(2, 11, "rhyme")]
    texts = [c["text"] for c in json.loads(found)["candidates"]]
    assert len(texts) == 2
    assert all(check(named("五绝"), verse.replace(line[:-1], text)) == [] for text in texts)  # they rhyme with 天


def test_another_line_that_does_not_rhyme_is_noted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "poem.txt").write_text("明月照江村\n山高水自流\n落花又黄昏\n", encoding="utf-8")
    words = ("rewrite", str(tmp_path / "poem.txt"), "--find", "落花又黄昏", *SAMPLING)
    status, _, notes = run(*words, "--form", "韵: 十三辙\n5a\n5a\n5a")
    assert status == 0
    assert "note: line 2, column 5: 流 does not rhyme with 村 in 十三辙\n" in notes
