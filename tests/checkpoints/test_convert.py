"""Converting between Hugging Face folders, shards and shards in safetensors: bit for bit, whole or not at all."""

import dataclasses
import json
import os
import resource
import shutil
import signal
import stat
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.convert import convert
from cpm_gen.checkpoints.formats.gguf_writer import export_gguf
from cpm_gen.checkpoints.locate import EMBEDDED, open_checkpoint
from cpm_gen.cli.main import main
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import CheckpointError, ConfigError, CpmGenError, InputError
from cpm_gen.networks.interface import Segment
from cpm_gen.runtime.conversions import convert_model
from cpm_gen.text.cpm_tokenizer import VOCABULARY_FILE, Tokenizer
from cpm_gen.text.find_tokenizer import find_tokenizer
from tests.huggingface_folders import ODD, logits, random_folder
from tests.random_networks import random_checkpoint
from tests.text.vocabularies import bert, byte_level

IDS = [5, 60, 17, 0, 33, 33, 8, 21, 59, 2, 44, 13]


def whole(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Every tensor, uncut, as stored."""
    found = {}
    for name, tensor in checkpoint.tensors.items():
        found[name] = torch.empty(tensor.shape, dtype=tensor.dtype)
        checkpoint.copy_slice(name, 0, 1, found[name])
    return found


def same(a: Path, b: Path) -> bool:
    one, two = open_checkpoint(a), open_checkpoint(b)
    alike = (one.variant, one.vocabulary, one.positions) == (two.variant, two.vocabulary, two.positions)
    first, second = whole(one), whole(two)
    return alike and first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["shards", "safetensors"])
def test_folder_to_shards_to_folder_keeps_every_bit(tmp_path: Path, kind: Any, dtype: torch.dtype) -> None:
    config, state = random_folder(tmp_path / "hf", dtype=dtype, **ODD)
    convert(tmp_path / "hf", tmp_path / "shards", kind, degree=2)
    assert open_checkpoint(tmp_path / "shards").degree == 2
    convert(tmp_path / "shards", tmp_path / "back", "hf")
    assert same(tmp_path / "hf", tmp_path / "shards")
    safetensors = pytest.importorskip("safetensors.torch")
    back = safetensors.load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) and back[name].dtype == dtype for name in state)
    said = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {name: said[name] for name in config if name != "bos_token_id"} == {
        name: value for name, value in config.items() if name != "bos_token_id"
    }
    assert said.get("bos_token_id") is None  # 50256, of 61 rows
    assert said["torch_dtype"] == str(dtype).removeprefix("torch.")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_shards_to_folder_to_shards_keeps_every_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    random_checkpoint(tmp_path / "net", degree=4, dtype=dtype)
    convert(tmp_path / "net", tmp_path / "hf", "hf")
    convert(tmp_path / "hf", tmp_path / "again", "shards", degree=4)
    for rank in range(4):
        name = f"mp_rank_{rank:02d}_model_states.pt"
        old = torch.load(tmp_path / "net" / "7" / name)["module"]
        new = torch.load(tmp_path / "again" / "release" / name)["module"]
        assert list(old) == list(new)
        assert all(torch.equal(old[k], new[k]) and old[k].dtype == new[k].dtype for k in old)


def test_a_folder_says_what_the_network_is(tmp_path: Path) -> None:
    random_checkpoint(tmp_path / "net", degree=2)
    convert(tmp_path / "net", tmp_path / "hf", "hf")
    said = json.loads((tmp_path / "hf" / "config.json").read_text())
    wanted = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 8, "n_positions": 16, "vocab_size": 120}
    assert {name: said[name] for name in wanted} == wanted
    assert said["activation_function"] == "gelu_new"


def test_large_weights_are_divided_over_files_with_an_index(tmp_path: Path) -> None:
    _, state = random_folder(tmp_path / "hf", **ODD)
    convert(tmp_path / "hf", tmp_path / "many", "hf", shard_bytes=20_000)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert index["weight_map"].keys() == state.keys()
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in state.values())
    assert all((tmp_path / "many" / file).stat().st_size < 25_000 for file in files)
    assert same(tmp_path / "hf", tmp_path / "many")


def test_another_dtype_is_the_rounded_one_and_what_it_cannot_hold_is_refused(tmp_path: Path) -> None:
    random_checkpoint(tmp_path / "net")
    convert(tmp_path / "net", tmp_path / "half", "safetensors", dtype=torch.bfloat16)
    first, second = whole(open_checkpoint(tmp_path / "net")), whole(open_checkpoint(tmp_path / "half"))
    assert all(torch.equal(first[name].bfloat16(), second[name]) for name in first)
    path = tmp_path / "net" / "7" / "mp_rank_00_model_states.pt"
    content = torch.load(path)
    content["module"]["word_embeddings.weight"][3, 4] = 1e5
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"word_embeddings\.weight holds numbers beyond float16's range"):
        convert(tmp_path / "net", tmp_path / "x", "hf", dtype=torch.float16)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("variant", [{}, ODD | {"tie_word_embeddings": True}], ids=["plain", "odd"])
def test_transformers_computes_the_same_with_an_exported_folder(tmp_path: Path, variant: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    config, state = random_folder(tmp_path / "hf", **variant)
    convert(tmp_path / "hf", tmp_path / "shards", "safetensors", degree=4)
    convert(tmp_path / "shards", tmp_path / "out", "hf", shard_bytes=30_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "out").eval()
        with torch.no_grad():
            got = network(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(got.double(), logits(state, config, IDS), atol=2e-5, rtol=0)


def test_the_embedded_model_leaves_with_an_exact_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    assert main(["convert", "embedded", str(tmp_path / "hf"), "--to", "hf"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'hf'}\n"
    assert listing(tmp_path / "hf") == [
        "chinese_vocab.model",
        "config.json",
        "form_bigrams.xz",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert same(EMBEDDED, tmp_path / "hf")
    theirs, ours = tokenizers.Tokenizer.from_file(str(tmp_path / "hf" / "tokenizer.json")), Tokenizer(EMBEDDED)
    for text in ("春眠不觉晓，处处闻啼鸟。", "山中 相送罢，\n\n日暮掩柴扉。ABC 123　①"):
        assert theirs.encode(text).ids == ours.encode(text)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"]) == (ours.eod, None)
    transformers = pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
        assert loaded.encode("春眠不觉晓") == ours.encode("春眠不觉晓")
        assert loaded.eos_token_id == ours.eod


def test_the_real_vocabulary_leaves_with_a_word_on_transformers(
    tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, words = str(reference / "original" / "tinyA"), str(reference / "vocab")
    given = ["convert", source, str(tmp_path / "hf"), "--to", "hf", "--heads", "8", "--tokenizer", words]
    assert main(given) == 0
    assert "CpmTokenizer gives other ids" in capsys.readouterr().err
    assert listing(tmp_path / "hf") == ["README.md", "chinese_vocab.model", "config.json", "model.safetensors"]
    assert "Do not encode texts with transformers' `CpmTokenizer`" in (tmp_path / "hf" / "README.md").read_text()


@pytest.mark.parametrize("name", ["uer-small", "openai-small", "sharded-small", "scaled-small", "cpm-small-hub"])
def test_folders_that_people_own_go_to_shards_and_back(tmp_path: Path, reference: Path, name: str) -> None:
    source = reference / "hf" / "ok" / name
    if not source.is_dir():
        pytest.skip("no Hugging Face folders in the reference data")
    assert (
        main(["convert", str(source), str(tmp_path / "shards"), "--to", "safetensors", "--tensor-parallel", "2"]) == 0
    )
    assert main(["convert", str(tmp_path / "shards"), str(tmp_path / "hf"), "--to", "hf"]) == 0
    assert same(source, tmp_path / "shards")
    assert same(source, tmp_path / "hf")
    for file in ("vocab.txt", "vocab.json", "merges.txt", "tokenizer.json", "spiece.model"):
        assert not (source / file).exists() or (tmp_path / "hf" / file).read_bytes() == (source / file).read_bytes()


@pytest.mark.parametrize("to", ["hf", "shards", "safetensors"])
@pytest.mark.parametrize("place", ["tokenizer", "vocab", "parent", "my.model", "my.txt", "my.json"])
def test_the_vocabulary_that_is_found_goes_with_the_model(tmp_path: Path, to: Any, place: str) -> None:
    model = random_checkpoint(tmp_path / "home" / "net")
    options, name = ModelOptions(model=str(model)), VOCABULARY_FILE
    if place in ("tokenizer", "vocab"):
        (model / place).mkdir()
        bert(model / place)
        name = "vocab.txt"
    elif place == "parent":
        shutil.copyfile(EMBEDDED / VOCABULARY_FILE, tmp_path / "home" / VOCABULARY_FILE)
    else:
        mine = tmp_path / "mine"
        mine.mkdir()
        bert(mine)  # its vocab.txt is not the file that is named, except below
        if place == "my.model":
            shutil.copyfile(EMBEDDED / VOCABULARY_FILE, mine / place)
        elif place == "my.txt":
            (mine / "vocab.txt").rename(mine / place)
            shutil.copyfile(EMBEDDED / VOCABULARY_FILE, mine / VOCABULARY_FILE)
            name = "vocab.txt"
        else:
            byte_level(mine, whole=True)
            (mine / "tokenizer.json").rename(mine / place)
            name = "tokenizer.json"
        options = dataclasses.replace(options, tokenizer=str(mine / place))
    convert_model(options, tmp_path / "out", to)
    before, after = find_tokenizer(options), find_tokenizer(ModelOptions(model=str(tmp_path / "out")))
    assert after.path == tmp_path / "out" / name
    assert after.path.read_bytes() == before.path.read_bytes()
    assert (after.kind, after.encode("床前明月光 the")) == (before.kind, before.encode("床前明月光 the"))


def test_a_folder_without_a_vocabulary_is_noted(tmp_path: Path) -> None:
    (note,) = convert_model(ModelOptions(model=str(random_checkpoint(tmp_path / "net"))), tmp_path / "out", "shards")
    assert "no vocabulary lies beside the model" in note


@pytest.mark.parametrize("kind", ["hf", "shards", "safetensors"])
@pytest.mark.parametrize("moment", ["writing", "verifying"])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, kind: Any, moment: str) -> None:
    random_checkpoint(tmp_path / "net", degree=2)

    def interrupt(what: str, done: int, of: int) -> None:
        if (what, done) == (moment, 3):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "net", tmp_path / "x", kind, progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


@pytest.mark.parametrize("kind", ["hf", "shards", "safetensors"])
def test_a_disk_that_fills_leaves_nothing(tmp_path: Path, kind: Any) -> None:
    random_checkpoint(tmp_path / "net")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(InputError, match="could not be written"):
            convert(tmp_path / "net", tmp_path / "x", kind)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


@pytest.mark.parametrize("kind", ["hf", "safetensors"])
def test_a_bit_that_changes_on_the_way_is_noticed(tmp_path: Path, kind: Any) -> None:
    random_checkpoint(tmp_path / "net")

    def wear(what: str, done: int, of: int) -> None:
        if (what, done) == ("verifying", 1):
            (file,) = (p for p in tmp_path.glob(".x.*/**/*.safetensors"))
            content = bytearray(file.read_bytes())
            content[-3] ^= 1
            file.write_bytes(content)

    with pytest.raises(CheckpointError, match="was not written as it was read"):
        convert(tmp_path / "net", tmp_path / "x", kind, progress=wear)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


@pytest.mark.parametrize("kind", ["hf", "shards", "safetensors", "gguf"])
def test_every_byte_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    embedded = open_checkpoint(EMBEDDED)
    synced: dict[tuple[int, int], int] = {}  # of files by their inode: bytes when they were last synced
    target = tmp_path / "out"

    def record(opened: int) -> None:
        status = os.fstat(opened)
        if stat.S_ISREG(status.st_mode):
            assert not target.exists()
            synced[status.st_dev, status.st_ino] = status.st_size
        elif (status.st_dev, status.st_ino) == (tmp_path.stat().st_dev, tmp_path.stat().st_ino):
            folders.append(sorted(path.name for path in tmp_path.iterdir()))

    folders: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", record)
    if kind == "gguf":
        pytest.importorskip("gguf")
        export_gguf(embedded, target, None)
    else:
        convert_model(ModelOptions(), target, kind)
    written = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    assert {(p.stat().st_dev, p.stat().st_ino): p.stat().st_size for p in written} == synced
    assert any("out" in names for names in folders)


def test_an_existing_target_is_replaced_with_force_alone(tmp_path: Path) -> None:
    random_checkpoint(tmp_path / "net")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        convert(tmp_path / "net", tmp_path / "x", "hf")
    assert listing(tmp_path / "x") == ["mine"]
    convert(tmp_path / "net", tmp_path / "x", "hf", force=True)
    assert same(tmp_path / "net", tmp_path / "x")
    with pytest.raises(InputError, match="the target holds the source"):
        convert(tmp_path / "net", tmp_path, "hf", force=True)


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"to": "hf", "degree": 2}, ConfigError, "holds whole tensors"),
        ({"to": "shards", "degree": 3}, CheckpointError, "possible: 1, 2, 4, 8"),
        ({"to": "hf", "heads": 7}, CheckpointError, "7 heads do not divide"),
    ],
)
def test_impossible_conversions_are_refused(
    tmp_path: Path, options: dict[str, Any], error: type[CpmGenError], word: str
) -> None:
    random_checkpoint(tmp_path / "net")
    with pytest.raises(error, match=word):
        convert(tmp_path / "net", tmp_path / "x", **options)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["convert", "absent", "x", "--to", "hf"], "absent: no such folder"),
        (["convert", "embedded", "absent/x", "--to", "hf"], "absent: No such file or directory"),
        (["convert", "embedded", "", "--to", "hf"], "the folder to write"),
        (["convert", "embedded", "x", "--to", "hf", "--tensor-parallel", "2"], "--tensor-parallel is for shards"),
        (["export", "embedded", "x", "--format", "gguf", "--past"], "--past is for --format onnx"),
        (["export", "embedded", "x", "--format", "onnx", "--ids-only"], "--ids-only is for --format gguf"),
        (
            ["export", "embedded", "x", "--format", "onnx", "--tokenizer", "/"],
            "--tokenizer is for --format gguf",
        ),
        (
            ["export", "embedded", "x", "--format", "gguf", "--tokenizer", "/", "--ids-only"],
            "--ids-only writes no vocabulary",
        ),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == []


def test_a_converted_model_writes_the_same_text(tmp_path: Path) -> None:
    import cpm_gen

    convert_model(ModelOptions(), tmp_path / "st", "safetensors", degree=2)
    ids = list(range(11, 40))
    with cpm_gen.load(tmp_path / "st") as one, cpm_gen.load() as two:
        a, b = (llm.engine.loaded.runner.next_logits([Segment(ids)]) for llm in (one, two))
        assert torch.equal(a, b)
        assert (
            one.generate("春天", seed=1, max_new_tokens=8).text == two.generate("春天", seed=1, max_new_tokens=8).text
        )
