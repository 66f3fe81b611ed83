"""``--candidates`` and ``--rank`` on the command line."""

import json
from pathlib import Path

import pytest

from cpm_gen.cli.main import main
from tests.cli.conftest import Run

LINE = ["lyric", "", "--form", "五绝", "--seed", "5"]


def test_candidates_take_as_large_a_batch_as_they_need(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*LINE, "--candidates", "12"]) == 0
    written = capsys.readouterr().out
    (tmp_path / "more.yaml").write_text("candidates: 12\n", encoding="utf-8")
    assert main([*LINE, "--config", str(tmp_path / "more.yaml"), "--batch", "16"]) == 0
    assert capsys.readouterr().out == written
    assert main(LINE) == 0
    assert capsys.readouterr().out != written


def test_candidates_from_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([*LINE, "--candidates", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    monkeypatch.setenv("CPM_GEN_CANDIDATES", "3")
    assert main([*LINE, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["text"], again["logprob"]) == (found["text"], found["logprob"])
    assert found["logprob"] < 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--candidates", "0"], "cpm-gen: --candidates: candidates must be from 1 to 16, not 0"),
        (["--candidates", "17"], "cpm-gen: --candidates: candidates must be from 1 to 16, not 17"),
        (["--candidates", "many"], "cpm-gen: --candidates: candidates must be a whole number"),
        (["--candidates", "8", "--batch", "4"], "cpm-gen: 8 candidates need a batch of at least 8, not 4"),
    ],
)
def test_what_is_wrong_is_one_line(flags, message, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*LINE, *flags]) == 2
    said = capsys.readouterr().err
    assert said.startswith(message)
    assert said.count("\n") == 1


def test_samples_come_best_first_with_rank(capsys: pytest.CaptureFixture[str]) -> None:
    several = ["lyric", "春", "--seed", "5", "--max-new-tokens", "12", "--n", "4"]
    assert main([*several, "--json"]) == 0
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main([*several, "--rank", "--json"]) == 0
    ranked = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    scores = [t["logprob"] for t in ranked]
    assert scores == sorted(scores, reverse=True)
    assert [t["index"] for t in plain] == [0, 1, 2, 3] != [t["index"] for t in ranked]
    assert {t["text"] for t in plain} == {t["text"] for t in ranked}
    assert main([*several, "--rank"]) == 0
    shown = capsys.readouterr().out
    places = [
        shown.index(f"── {place}/4 · {score:.3f} ──\n{t['text']}")
        for place, (score, t) in enumerate(zip(scores, ranked, strict=True), 1)
    ]
    assert places == sorted(places)


def test_candidates_of_shared_settings_change_no_command_without_them(run: Run, poems: str, tmp_path: Path) -> None:
    (tmp_path / "verse.txt").write_text("白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。\n", encoding="utf-8")
    (tmp_path / "shared.yaml").write_text("candidates: 8\nbatch: 2\n", encoding="utf-8")
    verse = str(tmp_path / "verse.txt")
    for words in (
        ("score", "床前明月光"),
        ("rewrite", verse, "--find", "更上一层楼。", "--seed", "1", "--n", "2"),
        ("form", "rhymes", "五绝", verse, "--line", "2", "-n", "3"),
        ("eval", "--data", poems, "--window-limit", "64", "--window-hop", "32"),
        ("form", "learn", "--from-model", "--tokens", "60", "--output", str(tmp_path / "table.xz")),
    ):
        status, _, err = run(*words, "--config", str(tmp_path / "shared.yaml"))
        assert status == 0, (words, err)
    status, _, err = run(*LINE, "--config", str(tmp_path / "shared.yaml"))
    assert (status, err) == (2, "cpm-gen: 8 candidates need a batch of at least 8, not 2; leave batch out\n")
