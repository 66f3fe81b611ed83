"""``--candidates`` and ``--rank`` on the command line."""

import json
from pathlib import Path

import pytest

from cpm_gen.cli.main import main

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
