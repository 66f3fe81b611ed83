"""Benchmarks and training scripts run from end to end, small."""

import json
import random
import shutil
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
def test_training_makes_a_model_that_the_package_loads(tmp_path: Path) -> None:
    pytest.importorskip("google.protobuf")
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    # words of two characters, common and rare ones, in lines of four
    rng = random.Random(0)
    characters = [chr(0x4E00 + 7 * i) for i in range(240)]
    words = ["".join(rng.sample(characters, 2)) for _ in range(300)]
    weights = [1 / (rank + 5) for rank in range(len(words))]

    def line() -> str:
        return "".join(rng.choices(words, weights, k=4)) + "。"

    for style, records, length in (("lyric", 1500, 4), ("novel", 300, 30)):
        (tmp_path / "text" / style).mkdir(parents=True)
        name = "tangshi.txt" if style == "lyric" else "book.txt"
        text = "\n\n".join("\n".join(line() for _ in range(length)) for _ in range(records))
        (tmp_path / "text" / style / name).write_text(text, encoding="utf-8")

    def run(*words: object) -> None:
        done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=900, cwd=ROOT)
        assert done.returncode == 0, done.stderr

    run("-m", "cpm_gen", "vocabulary", tmp_path / "text", "--output", tmp_path / "vocab", "--pieces", 520)
    run(
        "training/train.py", tmp_path / "text", tmp_path / "vocab", tmp_path / "out", "--steps", 400,
        "--layers", 1, "--hidden", 64, "--heads", 4, "--positions", 64, "--batch", 8,
    )  # fmt: skip
    run("training/card.py", tmp_path / "out", tmp_path / "vocab", tmp_path / "package")
    facts = json.loads((tmp_path / "package" / "training.json").read_text())
    assert facts["steps"] == 400
    import cpm_gen

    with cpm_gen.load(tmp_path / "package") as llm:
        ids = llm.encode("".join(line() for _ in range(8)), "novel")
        scores = [p for p in llm.score(ids) if p is not None]
    assert sum(scores) / len(scores) > -4.5  # the uniform distribution gives -6.25
