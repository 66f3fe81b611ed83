"""Benchmarks and training scripts run from end to end, small."""

import json
import random
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_decoder_benchmark_prints_a_table_and_rows(tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    run = subprocess.run(
        [sys.executable, "benchmarks/decoders.py", "--models", "embedded", "--rounds", "1", "--json", str(target)],
        capture_output=True, text=True, timeout=600, cwd=ROOT,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    rows = json.loads(target.read_text())
    assert [(r["engine"], r["work"]) for r in rows] == [
        (f"cpm-gen {decoder}", f"decode, {where} the window")
        for decoder in ("cached", "recompute")
        for where in ("inside", "past")
    ]
    assert all(r["tokens_per_second"] > 0 for r in rows)
    assert run.stdout.count("| embedded |") == 4


@pytest.mark.slow
def test_the_gpu_benchmark_runs_on_a_cpu(tmp_path: Path) -> None:
    target = tmp_path / "rows.json"
    words = "--model tiny --positions 64 --device cpu --dtype float32 --batches 1 2 --budgets 16 --tokens 8"
    run = subprocess.run(
        [sys.executable, "benchmarks/gpu.py", *words.split(), "--json", str(target)],
        capture_output=True, text=True, timeout=600, cwd=ROOT,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    works = [row["work"] for row in json.loads(target.read_text())]
    for work in (
        "copy",
        "decode, batch 2, novel",
        "past the window, hop 1/2",
        "first token after 63",
        "4h -> h, torch",
    ):
        assert work in works
    assert "the oracle's" in run.stdout


@pytest.mark.slow
def test_the_recipe_of_the_embedded_model_makes_a_model(tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf")
    pytest.importorskip("accelerate")
    # words of two characters, common and rare ones, in lines of four
    rng = random.Random(0)
    characters = [chr(0x4E00 + 7 * i) for i in range(240)]
    words = ["".join(rng.sample(characters, 2)) for _ in range(300)]
    weights = [1 / (rank + 5) for rank in range(len(words))]

    def line() -> str:
        return "".join(rng.choices(words, weights, k=4)) + "。"

    def write(name: str, records: int, length: int) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "\n\n".join("\n".join(line() for _ in range(length)) for _ in range(records))
        path.write_text(text, encoding="utf-8")

    for name, records, length in (
        ("text/lyric/tangshi.txt", 1000, 4),
        ("text/lyric/songci.txt", 500, 4),
        ("text/novel/book.txt", 300, 30),
        ("modern/verse-modern/a.txt", 30, 8),
        ("modern/prose-modern/b.txt", 30, 20),
        ("modern/prose-modern/c.txt", 30, 20),
    ):
        write(name, records, length)
    rows = ["file\ttier", "verse-modern/a.txt\tA", "prose-modern/b.txt\tA-", "prose-modern/c.txt\tB"]
    (tmp_path / "modern" / "manifest.tsv").write_text("\n".join(rows) + "\n")

    def run(*words: object) -> str:
        done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=900, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    mix = tmp_path / "mix"
    run("training/mix.py", tmp_path / "text", mix, "--modern", tmp_path / "modern", "--tiers", "A,A-")
    assert {p.name: [f.name for f in p.iterdir()] for p in mix.iterdir() if p.is_dir()} == {
        "tang": ["tangshi.txt"], "ci": ["songci.txt"], "classical-prose": ["book.txt"], "modern-verse": ["a.txt"],
        "modern-prose": ["b.txt"],
    }  # fmt: skip
    run("-m", "cpm_gen", "vocabulary", mix, "--output", tmp_path / "vocab", "--pieces", 520)
    said = run(
        "-m", "cpm_gen", "finetune", "--from-nothing", "1x64x4x64", "--tokenizer", tmp_path / "vocab", "--steps", 200,
        "--data", mix / "mix.yaml", "--output", tmp_path / "model", "--held-out", "0.005", "--threads", 1, "--json",
    )  # fmt: skip
    report = json.loads(said)
    assert [s["share"] for s in report["data"]] == pytest.approx([45 / 95, 15 / 95, 3 / 95, 16 / 95, 16 / 95], abs=1e-3)
    held = {s["name"]: s["held_out_documents"] for s in report["data"]}
    assert (held["tang"], held["ci"], held["classical-prose"]) == (5, 2, 1)
    run("training/held_out.py", mix, tmp_path / "held")
    counts = {p.stem: len(p.read_text().splitlines()) for p in (tmp_path / "held").iterdir()}
    for name in ("modern-prose", "modern-verse"):  # of few records training holds out one all the same
        assert (held.pop(name), counts.pop(name)) == (1, 0)
        (tmp_path / "held" / f"{name}.jsonl").unlink()
    assert counts == held
    run("training/grow.py", tmp_path / "model", "1x80x5x80", tmp_path / "grown", "--vocabulary", tmp_path / "vocab")
    run(
        "-m", "cpm_gen", "finetune", "--model", tmp_path / "grown", "--steps", 2, "--data", mix / "mix.yaml",
        "--output", tmp_path / "stage", "--held-out", "0.005", "--threads", 1,
    )  # fmt: skip
    edition = tmp_path / "edition"
    run(
        "training/edition.py",
        tmp_path / "stage",
        edition,
        "--texts",
        mix,
        "--held",
        tmp_path / "held",
        "--before",
        tmp_path / "model",
    )
    facts = json.loads((edition / "training.json").read_text())
    assert (facts["steps"], facts["positions"]) == (202, 80)
    assert [s["based_on"] for s in facts["stages"]] == [None, "grown"]
    assert [sum(s["shares"].values()) for s in facts["stages"]] == pytest.approx([1, 1], abs=1e-3)
    for figures in facts["held_out"].values():  # two steps of a network that began as the other one
        assert abs(figures["difference"]["value"]) < 0.3
    import cpm_gen

    with cpm_gen.load(tmp_path / "model") as llm:
        ids = llm.encode("".join(line() for _ in range(8)), "novel")
        scores = [p for p in llm.score(ids) if p is not None]
    assert sum(scores) / len(scores) > -4.5  # the uniform distribution gives -6.25


def test_an_edition_counts_the_training_of_the_first_edition() -> None:
    first = {
        "positions": 512, "steps": 6453, "tokens_trained": 26_431_488, "minutes": 100.0, "learning_rate": 0.004, "seed": 0,
        "torch": "2.13.0+cpu", "shares": {"tang": 0.2, "ci": 0.33, "prose": 0.47},
    }  # fmt: skip
    stages_of = runpy.run_path(str(ROOT / "training" / "edition.py"))["stages_of"]
    (stage,) = stages_of(first)
    assert stage["based_on"] is None
    assert (stage["steps"], stage["tokens"], stage["seconds"]) == (6453, 26_431_488, 6000)
    assert stages_of({"stages": [stage, stage]}) == [stage, stage]
