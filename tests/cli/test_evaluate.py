"""``cpm-gen eval`` as a person meets it: tables, JSON, notes, mistakes and Ctrl-C."""

import json
import math
import signal
from pathlib import Path

import pytest

from cpm_gen.checkpoints.locate import EMBEDDED
from cpm_gen.cli import evaluate as commands
from tests.cli.conftest import FLAGS, Run
from tests.embedded import LIMIT, POSITIONS, VOCABULARY
from tests.random_networks import random_checkpoint

FIGURES = (
    "loss_per_token",
    "perplexity_per_token",
    "loss_per_character",
    "perplexity_per_character",
    "bits_per_character",
)


def test_json_has_every_figure_with_its_interval(run: Run, poems: str) -> None:
    status, out, err = run("eval", "--data", poems, "--records", "--style", "lyric", "--json", *FLAGS)
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report.keys() == {
        "data", "model", "documents", "short_documents", "tokens", "unknown_tokens", "characters", "confidence", "seed",
        *FIGURES, "tokens_per_second", "seconds", "interrupted",
    }  # fmt: skip
    assert (report["documents"], report["interrupted"], report["model"]) == (6, False, "embedded")
    for name in FIGURES:
        low, high = report[name]["interval"]
        assert low <= report[name]["value"] <= high
    assert 0 < report["loss_per_token"]["value"] < math.log(VOCABULARY)


def test_the_table_says_the_same_as_json_and_names_what_is_left_out(run: Run, poems: str) -> None:
    report = json.loads(run("eval", "embedded", "--data", poems, "--json", *FLAGS)[1])
    status, out, err = run("eval", "embedded", "--data", poems, *FLAGS)
    assert status == 0
    assert f"{report['perplexity_per_token']['value']:.4g}" in out
    assert "one document gives no confidence interval" in err


def test_figures_that_no_float_holds_are_null_in_json_and_a_dash_in_the_table(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "one.txt"
    data.write_text("床", encoding="utf-8")
    status, out, _ = run("eval", "--data", str(data), "--style", "lyric", "--json", *FLAGS)
    assert status == 0

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    report = json.loads(out, parse_constant=refuse)
    assert report["loss_per_token"]["value"] > 0
    assert [report[f"{name}_per_character"]["value"] for name in ("loss", "perplexity", "bits")] == [None] * 3
    table = run("eval", "--data", str(data), "--style", "lyric", *FLAGS)[1]
    line = next(line for line in table.splitlines() if "perplexity per character" in line)
    assert line.split("|")[2].strip() == "–"


def test_a_model_is_compared_with_another_on_the_same_documents(run: Run, poems: str) -> None:
    words = ("eval", "--data", poems, "--records", "--against", str(EMBEDDED), *FLAGS)
    report = json.loads(run(*words, "--json")[1])
    found = report["against"]["difference"]
    assert found["loss_per_token"]["value"] == 0
    assert (found["documents"], found["better"]) == (6, None)
    assert report["against"]["tokens"] == report["tokens"]
    assert "no clear difference" in run(*words)[1]


def test_what_is_wrong_with_the_second_model_is_said_before_the_first_is_measured(
    run: Run, poems: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "score_documents", lambda *_, **__: pytest.fail("measured"))
    other = random_checkpoint(tmp_path / "other")  # of 16 positions, and of 120 rows, which are not the vocabulary's
    words = ("eval", "--data", poems, "--against", str(other), *FLAGS)
    for more, says in (
        ((), "the checkpoint's vocabulary has 120; they do not belong together"),
        (("--stride", "16"), "--stride must be from 1 to 15"),
        (("--window-limit", "100"), "window limit must be from 1 to 16"),
    ):
        status, out, err = run(*words, *more)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert says in err


def test_a_damaged_vocabulary_beside_the_second_model_is_not_replaced_by_the_firsts(
    run: Run, poems: str, tmp_path: Path
) -> None:
    other = random_checkpoint(tmp_path / "other")
    (other / "chinese_vocab.model").touch()
    status, out, err = run("eval", "--data", poems, "--against", str(other), *FLAGS)
    assert (status, out) == (2, "")
    assert "chinese_vocab.model: the file is empty" in err


def test_an_onnx_file_is_compared_whatever_the_first_model_computes_in(run: Run, poems: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    file = str(tmp_path / "x.onnx")
    assert run("export", "--format", "onnx", "embedded", file)[0] == 0
    words = ("eval", "--data", poems, "--records", "--against")
    flags = ("--tokenizer", str(EMBEDDED), "--json", *FLAGS)
    several = ("--quantize", "int8", "--kv-cache", "int8", "--device", "cpu")
    status, out, err = run(*words, file, *several, *flags)
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report["against"]["model"] == file
    assert 0 < abs(report["against"]["difference"]["loss_per_token"]["value"]) < 0.1  # int8 against float32
    status, out, err = run(*words, "embedded", "--model", file, "--kernels", "onnx", *flags)
    assert (status, err) == (0, "")
    assert json.loads(out)["against"]["difference"]["loss_per_token"]["value"] == pytest.approx(0, abs=1e-4)


def test_ctrl_c_prints_what_is_finished(run: Run, poems: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(commands.Remaining):
        def show(self, done: int, tokens: int | None = None) -> None:
            super().show(done, tokens)
            if done > 20:  # characters: two poems
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(commands, "Remaining", Interrupting)
    status, out, err = run("eval", "--data", poems, "--records", "--json", *FLAGS)
    assert status == 130
    assert json.loads(out)["interrupted"] is True
    assert json.loads(out)["documents"] == 2
    assert "interrupted" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["eval"], "--data"),
        (["eval", "--data", ""], "empty"),
        (["eval", "--data", "/nonexistent.txt"], "No such file"),
        (["eval", "", "--data", "x"], "empty"),
        (["eval", "/nonexistent", "--data", "POEMS"], "no such folder"),
        (["eval", "--data", "POEMS", "--stride", "0"], f"--stride must be from 1 to {LIMIT}"),
        (["eval", "--data", "POEMS", "--stride", str(POSITIONS)], f"--stride must be from 1 to {LIMIT}"),
        (["eval", "--data", "POEMS", "--against", "/nonexistent"], "no such folder"),
        (["eval", "--data", "POEMS", "--seed", "x"], "--seed"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(run: Run, poems: str, words: list[str], says: str) -> None:
    status, out, err = run(*(poems if w == "POEMS" else w for w in words))
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert says in line
