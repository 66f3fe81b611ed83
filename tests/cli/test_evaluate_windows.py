"""``cpm-gen eval-window`` and ``choose`` as a person meets them."""

import json
import signal
import sys
from pathlib import Path

import pytest

from cpm_gen.cli import choose as choose_command
from cpm_gen.cli import evaluate_windows as commands
from cpm_gen.config.resolve import Settings
from cpm_gen.runtime.text_engine import TextEngine
from tests.cli.conftest import FLAGS, Run
from tests.embedded import LIMIT, POSITIONS

ROOT = Path(__file__).parents[2]
OCNLI = str(ROOT / "examples" / "choose" / "ocnli.jsonl")
SMALL = ("--window-limit", "16", "--length", "60", "--texts", "2", "--every", "4", *FLAGS)


def test_tables_json_and_plot_hold_every_method(run: Run, poems: str, tmp_path: Path) -> None:
    target = tmp_path / "w.json"
    words = ["eval-window", "--data", poems, *SMALL, "--generate", "30", "--seed", "1", "--json", str(target)]
    status, out, err = run(*words)
    assert (status, err) == (0, "")
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report.keys() == {
        "data", "model", "texts", "length", "window_limit", "tokens_compared", "confidence", "seed", "methods", "generated",
        "interrupted",
    }  # fmt: skip
    names = ["hop 1", "hop 8", "keep 2, hop 8", "stale cache"]
    assert [m["name"] for m in report["methods"]] == names
    assert [g["name"] for g in report["generated"]] == ["human", *names[1:]]
    assert all(f"| {name} " in out for name in names)
    assert report["methods"][1]["against_hop_1"].keys() == {"value", "interval"}


def test_a_plot_is_drawn_in_the_format_of_its_name(run: Run, poems: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    words = (
        "eval-window",
        "--data",
        poems,
        *SMALL,
        "--hop",
        "8",
        "--keep",
        "0",
        "--no-stale",
        "--generate",
        "9",
        "--plot",
    )
    assert run(*words, str(tmp_path / "w.svg"))[0] == 0
    assert (tmp_path / "w.svg").read_text(encoding="utf-8").startswith("<?xml")
    status, out, err = run(*words, str(tmp_path / "w.docx"))
    assert (status, out) == (2, "")
    assert ".png" in err


def test_a_plot_without_matplotlib_says_how_to_install_it(
    run: Run, poems: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "cpm_gen.evaluation.plot", raising=False)
    status, _, err = run("eval-window", "--data", poems, *SMALL, "--plot", str(tmp_path / "w.svg"))
    assert status == 2
    assert "--plot needs matplotlib: pip install -c constraints.txt -e '.[plot]'" in err


def test_the_stale_cache_and_the_kept_beginning_can_be_left_out(run: Run, poems: str) -> None:
    status, out, _ = run("eval-window", "--data", poems, *SMALL, "--hop", "8", "--keep", "0", "--no-stale")
    assert status == 0
    assert "hop 8" in out
    assert "stale" not in out
    assert "keep" not in out


def test_the_least_tokens_of_a_text_are_not_compared_with_a_setting_that_is_not_used(run: Run, poems: str) -> None:
    words = ("eval-window", "--data", poems, *SMALL, "--hop", "8", "--keep", "0", "--no-stale")
    status, out, err = run(*words, "--generate", "30", "--min-new-tokens", "300", "--temperature", "0")
    assert (status, err) == (0, "")
    assert "Distinct bigrams" in out


def test_slots_are_taken_for_the_texts_that_are_written(run: Run, poems: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []
    open_model = commands.open_model

    def opened(settings: Settings) -> TextEngine:
        batches.append((engine := open_model(settings)).options.batch)
        return engine

    monkeypatch.setattr(commands, "open_model", opened)
    words = ["eval-window", "--data", poems, *SMALL, "--batch", "8", "--hop", "8", "--keep", "0", "--no-stale"]
    for count in ("0", "2"):
        assert run(*words, "--generate", count)[0] == 0
    assert batches == [1, 2]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_file_that_cannot_be_written_does_not_cost_the_figures(run: Run, poems: str) -> None:
    words = ("eval-window", "--data", poems, *SMALL, "--hop", "8", "--keep", "0", "--no-stale", "--json", "/dev/full")
    status, out, err = run(*words)
    assert status == 2
    assert "| hop 8 " in out
    assert err.count("\n") == 1


def test_ctrl_c_shows_the_methods_that_are_finished(
    run: Run,
    poems: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    class Interrupting(commands.Remaining):
        def show(self, done: int, tokens: int | None = None) -> None:
            super().show(done, tokens)
            if self._what == "stale cache":
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(commands, "Remaining", Interrupting)
    target = tmp_path / "w.json"
    status, out, err = run("eval-window", "--data", poems, *SMALL, "--json", str(target))
    assert status == 130
    assert "interrupted" in err
    report = json.loads(target.read_text(encoding="utf-8"))
    assert report["interrupted"] is True
    assert [m["name"] for m in report["methods"]] == ["hop 8", "keep 2, hop 8"]
    assert "hop 8" in out


def test_choose_writes_predictions_and_an_accuracy(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "p.jsonl"
    words = ("choose", "ocnli", "--data", OCNLI, *FLAGS)
    status, out, err = run(*words, "--predictions", str(target), "--json")
    assert (status, err) == (0, "")
    report = json.loads(out)
    assert report.keys() == {"task", "data", "records", "scored", "candidates", "score", "seed", "accuracy"}
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert (report["records"], report["scored"], len(rows)) == (7, 6, 6)
    assert report["accuracy"]["value"] == sum(r["right"] for r in rows) / 6
    assert rows[0].keys() == {"line", "prediction", "answer", "right", "losses"}
    status, out, err = run(*words, "--predictions", "-", "--score", "sum")
    assert [json.loads(line)["line"] for line in out.splitlines()] == [r["line"] for r in rows]
    assert "accuracy" in err
    summed = json.loads(out.splitlines()[0])["losses"]["entailment"]
    assert summed > rows[0]["losses"]["entailment"]


def test_an_interrupted_choice_reports_what_is_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting(choose_command.Remaining):
        def show(self, done: int, tokens: int | None = None) -> None:
            super().show(done, tokens)
            if done == 2:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(choose_command, "Remaining", Interrupting)
    status, out, _ = run("choose", "ocnli", "--data", OCNLI, "--json", *FLAGS)
    assert status == 130
    assert json.loads(out)["scored"] == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["eval-window", "--data", "/nonexistent"], "No such file"),
        (["eval-window", "--data", "POEMS", "--length", "0"], "length must be at least 1"),
        (["eval-window", "--data", "POEMS", "--generate", "-1"], "generate must be at least 0"),
        (["eval-window", "--data", "POEMS", "--hop", str(POSITIONS)], f"hop must be from 1 to {LIMIT}"),
        (["eval-window", "--data", "POEMS"], f"the window moves first after {POSITIONS:,}"),
        (["eval-window", "--data", "POEMS", "--json", "/nonexistent/x"], "no folder"),
        (["eval-window", "--data", "POEMS", "--json", "/"], "--json takes a file"),
        (["eval-window", "--data", "POEMS", "--plot", ""], "--plot: the file's name is empty"),
        (["eval-window", "x.onnx", "--data", "POEMS"], "the stale cache is computed in torch"),
        (["choose", "ocnli", "--data", OCNLI, "--predictions", "/"], "--predictions takes a file"),
        (["choose", "ocnlii", "--data", OCNLI], "no configuration named"),
        (["choose", "", "--data", OCNLI], "empty"),
        (["choose", "ocnli", "--data", ""], "empty"),
        (["choose", "ocnli", "--data", "/"], "Is a directory"),
        (["choose", "ocnli", "--data", "POEMS"], "line 1: not JSON"),
        (["choose", "tnews", "--data", OCNLI], "line 1: label 'entailment' is none of the labels"),
        (["choose", "ocnli", "--data", OCNLI, "--candidates", "9"], "candidates must be"),
        (["choose", "ocnli", "--data", OCNLI, "--length", str(POSITIONS + 1)], f"--length must be at most {POSITIONS}"),
        (["choose", "ocnli", "--data", OCNLI, "--length", "20"], "length must be above 20"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(run: Run, poems: str, words: list[str], says: str) -> None:
    status, out, err = run(*(poems if w == "POEMS" else w for w in words))
    assert (status, out) == (2, "")
    (line,) = err.splitlines()
    assert says in line
