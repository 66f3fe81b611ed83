"""``cpm-gen finetune``: what a person does wrong is one line, before anything is trained."""

from pathlib import Path

import pytest

from cpm_gen.config.finetune_options import finetune_options
from cpm_gen.config.options import ModelOptions
from tests.cli.conftest import Run
from tests.embedded import PARAMETERS, POSITIONS

pytest.importorskip("accelerate")
TEXT = ("床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。\n\n" * 200).strip()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT, encoding="utf-8")
    return folder


def words(data: object, out: object, *more: str) -> list[str]:
    return ["finetune", "--data", str(data), "--output", str(out), "--steps", "1", "--threads", "1", *more]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "a folder without .txt"),
        ({"a.txt": b""}, "is empty"),
        ({"a.txt": "春".encode("gbk")}, "not UTF-8"),
        (
            {"a.txt": "春\n".encode()},
            f"tokens to train on, but a window has {POSITIONS:,} and one more; give more text, or --length 8",
        ),
        ({"a.jsonl": b'{"txt": 1}\n'}, 'needs "text", a string'),
        ({"a.jsonl": b'{"text": " "}\n'}, "holds no text"),
    ],
)
def test_texts_that_cannot_be_trained_on(run: Run, tmp_path: Path, content: dict[str, bytes], says: str) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, data in content.items():
        (folder / name).write_bytes(data)
    status, out, err = run(*words(folder, tmp_path / "out"))
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert says in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--minutes", "1"), "--steps and --minutes exclude each other"),
        (("--batch", "0"), "--batch: batch must be from 1 to 65536, not 0"),
        (("--learning-rate", "x"), "--learning-rate: learning_rate must be a number"),
        (("--schedule", "round"), "--schedule: schedule must be linear or cosine"),
        (("--length", "4096"), f"--length must be at most {POSITIONS:,}, the network's positions"),
        (("--to", "hf", "--tensor-parallel", "2"), "--tensor-parallel is for shards"),
        (("--lora", "4", "--optimizer", "muon"), "--lora is trained with adamw"),
        (("--from-nothing", "1x32x4x64", "--lora", "4"), "leave it out with --from-nothing"),
        (("--from-nothing", "1x32x5x64"), "5 heads do not divide the hidden size 32"),
        (("--from-nothing", "12"), "'12' is no size; give LAYERSxHIDDENxHEADSxPOSITIONS"),
        (("--from-nothing", "huge"), "no configuration named 'huge.yaml'"),
        (("--from-nothing", "1x32x4x64", "--model", "/x"), "--from-nothing and --model exclude each other"),
        (("--device", "tpu"), "--device must be cpu, cuda or auto, not 'tpu'"),
        (("--device", "cuda"), "torch finds no GPU here"),
        (("--precision", "float16"), "--precision float16 is for GPUs"),
        (("--model", "/no/such"), "/no/such: no such folder"),
        (("--tokenizer", "/no/such"), "/no/such"),
        (("--style", "poem"), "style"),
        (("--tensor-parallel", "3"), "cannot be cut for 3 ranks"),
        (("--micro-batch", "3"), "--micro-batch must divide 8, the windows of a step on a rank, not 3"),
        (("--deepspeed", "/no/such"), "--deepspeed /no/such: no such file"),
        (("--deepspeed", "{tmp}/zero3.json"), "its stage 3 divides the weights over the ranks"),
        (("--deepspeed", "{tmp}/list.json"), "does not read as DeepSpeed's JSON configuration"),
        (("--recipe", "cpm1", "--held-out", "0.1"), "the recipe cpm1 holds out the last 100 songs"),
        (("--resume",), "no run to continue there; leave --resume out"),
        (("--data", "/no/such"), "/no/such: No such file or directory"),
    ],
)
def test_settings_that_do_not_go_together(
    run: Run, texts: Path, tmp_path: Path, more: tuple[str, ...], says: str
) -> None:
    (tmp_path / "zero3.json").write_text('{"zero_optimization": {"stage": 3}}')
    (tmp_path / "list.json").write_text("[]")
    status, out, err = run(*words(texts, tmp_path / "out", *(word.replace("{tmp}", str(tmp_path)) for word in more)))
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert says in err
    assert not (tmp_path / "out").exists()


def test_targets_that_cannot_be_written(run: Run, texts: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "a").write_text("mine")
    for out, says in (
        (full, "exists already; remove it, or give --force"),
        (texts, "source and target are the same folder"),
        (tmp_path, "the target holds the source"),
        (tmp_path / "no" / "such", "there is no folder"),
        ("", "the folder to write"),
    ):
        status, said, err = run(*words(texts, out, *(["--force"] if out in (texts, tmp_path) else [])))
        assert (status, said, err.count("\n")) == (2, "", 1), err
        assert says in err
    assert (full / "a").read_text() == "mine"
    assert (texts / "a.txt").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--data", "{tmp}/empty.txt"), "is empty"),
        (("--tokenizer", "/no/such"), "/no/such"),
        (("--length", "4096"), "--length must be at most"),
        (("--sample", " "), "the prompt is empty"),
    ],
)
def test_what_is_there_stays_until_all_is_prepared(
    run: Run, texts: Path, tmp_path: Path, more: tuple[str, ...], says: str
) -> None:
    """``--force`` replaces a model by one that is trained, not by an error."""
    (tmp_path / "empty.txt").touch()
    out = tmp_path / "out"
    (out / "80000").mkdir(parents=True)
    (out / "80000" / "mp_rank_00_model_states.pt").write_text("weights")
    status, _, err = run(*words(texts, out, "--force", *(word.replace("{tmp}", str(tmp_path)) for word in more)))
    assert (status, err.count("\n")) == (2, 1), err
    assert says in err
    assert [str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()] == [
        "80000/mp_rank_00_model_states.pt"
    ]
    assert (out / "80000" / "mp_rank_00_model_states.pt").read_text() == "weights"


def test_what_the_run_reads_is_not_replaced(run: Run, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "more").mkdir(parents=True)
    (out / "more" / "b.txt").write_text(TEXT, encoding="utf-8")
    (out / "size.yaml").write_text("size: {layers: 1, hidden: 8, heads: 2, vocabulary: 9, positions: 16}\n")
    mix = tmp_path / "mix.yaml"
    mix.write_text("texts:\n- {path: texts}\n- {path: out/more}\n")
    for more in (
        ("--tokenizer", out),
        ("--data", mix),
        ("--from-nothing", out / "size.yaml"),
        ("--deepspeed", out / "zero2.json"),
    ):
        status, _, err = run(*words(texts, out, "--force", *map(str, more)))
        assert (status, err.count("\n")) == (2, 1), err
        assert "the target holds the source" in err
    assert (out / "more" / "b.txt").exists()


def test_a_vocabulary_of_another_size_is_refused(run: Run, texts: Path, tmp_path: Path) -> None:
    from tests.text.vocabularies import bert

    other = bert(tmp_path / "other")
    status, _, err = run(*words(texts, tmp_path / "out", "--tokenizer", str(other)))
    assert (status, err.count("\n")) == (2, 1)
    assert "they do not belong together" in err


def test_a_run_goes_on_with_the_same_words_and_from_another_folder(
    run: Run, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths that are relative: the next check is that of the texts."""
    from cpm_gen.finetuning.prepare import Request
    from cpm_gen.finetuning.run_folder import RunFolder

    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("size: {layers: 1, hidden: 8, heads: 2, vocabulary: 9, positions: 16}\n")
    Path("zero2.json").write_text("{}")
    given = {"from_nothing": "mine.yaml", "threads": 1}
    begun = Request(ModelOptions(), "lyric", ("texts",), None, 0, finetune_options(given, "lyric"))
    stored = {**begun.to_json(), "precision": "float32", "ranks": 1, "threads": 1, "texts": "others"}
    RunFolder(tmp_path / "out").begin(stored)
    for more in (["--from-nothing", "mine.yaml", "--data", "texts"], []):
        status, _, err = run("finetune", "--resume", "--output", str(tmp_path / "out"), *more)
        assert (status, err.count("\n")) == (2, 1)
        assert "the texts are not those that the run was begun with" in err
        monkeypatch.chdir("/")
    monkeypatch.chdir(tmp_path)
    assert finetune_options({"deepspeed": "zero2.json"}, "lyric").deepspeed == str(tmp_path / "zero2.json")
    assert finetune_options({"from_nothing": "2x32x4x64"}, "lyric").from_nothing == "2x32x4x64"


def test_data_is_asked_for(run: Run, tmp_path: Path) -> None:
    status, _, err = run("finetune", "--output", str(tmp_path / "out"))
    assert (status, err.count("\n")) == (2, 1)
    assert "--data is missing: the file or folder of texts to train on" in err


def test_a_missing_package_is_named(run: Run, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "peft" else real(name))
    status, _, err = run(*words(texts, tmp_path / "out"))
    assert (status, err.count("\n")) == (2, 1)
    assert "cpm-gen finetune needs peft: pip install -c constraints.txt -e '.[train]'" in err


def test_too_little_memory_is_said_before_and_while_training(
    run: Run, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("cpm_gen.finetuning.memory.free_bytes", lambda device: 1_000_000)
        status, _, err = run(*words(texts, tmp_path / "out"))
        assert (status, err.count("\n")) == (2, 1)
        needed = f"{16 * PARAMETERS / 1e9:.1f} GB"  # float32 weights, gradients and two moments
        assert (
            f"training needs about {needed} for weights, gradients and moments, 0.0 GB are free; try --lora 16" in err
        )
        assert not (tmp_path / "out").exists()

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")

    monkeypatch.setattr("cpm_gen.finetuning.trainer.WindowTrainer.compute_loss", full)
    status, _, err = run(*words(texts, tmp_path / "out", "--held-out", "0", "--micro-batch", "4"))
    assert status == 2
    assert err.splitlines()[-1] == (
        "cpm-gen: not enough memory for 4 windows at once; give a smaller --micro-batch, --gradient-checkpointing or --lora 16, "
        "and start again with --force"
    )
