"""``cpm-gen vocabulary`` from its arguments to the folder."""

import json
import random
from pathlib import Path

import pytest

from cpm_gen.text.cpm_tokenizer import Tokenizer
from tests.cli.conftest import Run

pytest.importorskip("google.protobuf")
RNG = random.Random(0)
WORDS = ["".join(RNG.sample([chr(0x4E00 + 7 * i) for i in range(240)], 2)) for _ in range(300)]
TEXT = "".join("".join(RNG.choices(WORDS, [1 / (rank + 5) for rank in range(300)], k=4)) + "。\n" for _ in range(1500))


def test_it_makes_a_folder_that_other_commands_take(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT, encoding="utf-8")
    (folder / "b.jsonl").write_text(json.dumps({"text": "甲乙丙丁\n"}) + "\n", encoding="utf-8")
    target = tmp_path / "made"
    words = ("vocabulary", str(folder), "--output", str(target), "--pieces", "520", "--json")
    status, out, err = run(*words)
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report["pieces"] == 520
    assert report["characters"] == len(TEXT) + 4
    assert report["characters_per_token"] >= 1
    assert Tokenizer(target).size == 520
    status, out, _ = run("tokenize", WORDS[0], "--tokenizer", str(target))
    assert status == 0
    assert run("tokenize", "--decode", out.strip(), "--tokenizer", str(target))[1] == WORDS[0] + "\n"

    status, _, err = run(*words)
    assert (status, err) == (2, f"cpm-gen: {target}: exists already; remove it, or give --force to replace it\n")
    assert run(*words, "--force")[0] == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        ("春".encode("gbk"), "UTF-8"),
        ("春\n".encode(), "too few different words"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(run: Run, tmp_path: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    status, out, err = run("vocabulary", str(tmp_path / "a.txt"), "--output", str(tmp_path / "made"))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert {path.name for path in tmp_path.iterdir()} <= {"a.txt"}


def test_a_target_without_a_folder_is_told_before_the_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    status, _, err = run("vocabulary", str(tmp_path / "a.txt"), "--output", str(tmp_path / "no" / "made"))
    assert status == 2
    assert "there is no folder" in err


@pytest.mark.parametrize(("texts", "target"), [("texts", "texts"), ("texts/a.txt", "texts"), ("texts", "link")])
def test_a_target_that_holds_the_texts_is_refused_and_they_stay(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, texts: str, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "link").symlink_to("texts")
    status, out, err = run("vocabulary", texts, "--output", target, "--pieces", "520", "--force")
    said = f"{target}: source and target are the same folder, or the target holds the source"
    assert (status, out, err) == (2, "", f"cpm-gen: {said}\n")
    assert (tmp_path / "texts" / "a.txt").read_text(encoding="utf-8") == TEXT
