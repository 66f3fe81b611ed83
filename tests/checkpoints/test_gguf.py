"""GGUF files: what they hold, by gguf's reader, and what a real llama.cpp makes of them."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cpm_gen
from cpm_gen.checkpoints.formats.gguf_writer import export_gguf
from cpm_gen.checkpoints.locate import EMBEDDED, open_checkpoint
from cpm_gen.cli.main import main
from cpm_gen.errors import CheckpointError
from cpm_gen.networks.interface import Segment
from tests.huggingface_folders import ODD, logits, random_folder
from tests.random_networks import random_checkpoint

gguf = pytest.importorskip("gguf")

IDS = [5, 60, 17, 0, 33, 33, 8, 21, 59, 2, 44, 13]
TEXTS = ("春眠不觉晓，处处闻啼鸟。", "山中相送罢，日暮掩柴扉。\n春草明年绿，王孙归不归？", "白日依山尽, 黄河入海流。")
TANH = {**ODD, "activation_function": "gelu_new"}


def field(reader: Any, name: str) -> Any:
    return reader.get_field(name).contents()


def test_a_file_holds_the_network_under_llama_cpp_s_names(tmp_path: Path) -> None:
    config, state = random_folder(tmp_path / "hf", dtype=torch.float16, **TANH)
    export_gguf(open_checkpoint(tmp_path / "hf"), tmp_path / "x.gguf", None)
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    said = {name: field(reader, f"gpt2.{name}") for name in ("block_count", "context_length", "embedding_length")}
    assert said == {"block_count": 2, "context_length": 24, "embedding_length": 32}
    assert field(reader, "gpt2.feed_forward_length") == config["n_inner"]
    assert field(reader, "gpt2.attention.layer_norm_epsilon") == pytest.approx(0.1)
    assert field(reader, "general.architecture") == "gpt2"
    assert field(reader, "tokenizer.ggml.model") == "none"
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert len(tensors) == len(state)
    first = tensors["blk.0.attn_qkv.weight"]
    assert np.array_equal(first.data, state["transformer.h.0.attn.c_attn.weight"].T.numpy())
    assert first.data.dtype == np.float16
    second = torch.from_numpy(tensors["blk.1.attn_qkv.bias"].data.copy())
    bias = state["transformer.h.1.attn.c_attn.bias"].float()
    assert torch.equal(second, torch.cat([bias[:32] / 2, bias[32:]]))  # scores of layer 1 are divided by 2
    assert np.array_equal(tensors["output.weight"].data, state["lm_head.weight"].numpy())
    assert tensors["position_embd.weight"].data.dtype == np.float32


def test_the_embedded_vocabulary_goes_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--format", "gguf", "embedded", str(tmp_path / "x.gguf")]) == 0
    assert "shifts stale keys" in capsys.readouterr().err
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    pieces, types = (field(reader, f"tokenizer.ggml.{name}") for name in ("tokens", "token_type"))
    assert len(pieces) == len(types) == open_checkpoint(EMBEDDED).vocabulary
    assert (pieces[3], types[3], pieces[10], types[10], pieces[7]) == ("\n", 4, " ", 4, "<eod>")
    assert field(reader, "tokenizer.ggml.model") == "t5"
    assert field(reader, "tokenizer.ggml.eos_token_id") == 7
    assert len(field(reader, "tokenizer.ggml.precompiled_charsmap")) > 1000


def test_a_vocabulary_that_llama_cpp_cannot_have_is_refused(
    tmp_path: Path, reference: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = str(reference / "original" / "tinyA"), str(tmp_path / "x.gguf")
    given = ["export", "--format", "gguf", source, target, "--heads", "8"]
    assert main([*given, "--tokenizer", str(reference / "vocab")]) == 2
    said = capsys.readouterr().err
    assert "jieba" in said
    assert "--ids-only" in said
    assert [p.name for p in tmp_path.iterdir()] == []
    assert main([*given, "--ids-only"]) == 0


def test_a_model_without_a_vocabulary_or_with_erf_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random_folder(tmp_path / "hf", **ODD)
    assert main(["export", "--format", "gguf", str(tmp_path / "hf"), str(tmp_path / "x.gguf")]) == 2
    assert "--ids-only" in capsys.readouterr().err
    with pytest.raises(CheckpointError, match="erf form"):
        export_gguf(open_checkpoint(tmp_path / "hf"), tmp_path / "x.gguf", None)
    assert [p.name for p in tmp_path.iterdir()] == ["hf"]


@pytest.mark.parametrize("moment", ["writing", "verifying"])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, moment: str) -> None:
    source = open_checkpoint(random_checkpoint(tmp_path / "net"))

    def interrupt(what: str, done: int, of: int) -> None:
        if what == moment:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        export_gguf(source, tmp_path / "x.gguf", None, progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


def llama(path: Path, context: int) -> Any:
    llama_cpp = pytest.importorskip("llama_cpp", reason="no llama-cpp-python, which takes long to build")
    return llama_cpp.Llama(str(path), n_ctx=context, logits_all=True, verbose=False)


def computed(model: Any, ids: list[int]) -> torch.Tensor:
    model.reset()
    model.eval(ids)
    return torch.tensor(np.array(model.scores[: len(ids)]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, torch.float32], ids=str)
def test_llama_cpp_agrees_in_the_best_token_and_encodes_alike(tmp_path: Path, dtype: torch.dtype | None) -> None:
    from cpm_gen.config.options import ModelOptions
    from cpm_gen.runtime.conversions import export_model_as_gguf

    export_model_as_gguf(ModelOptions(model="embedded"), tmp_path / "x.gguf", dtype=dtype)
    model = llama(tmp_path / "x.gguf", 512)
    with cpm_gen.load() as llm:
        runner = llm.engine.loaded.runner
        for text in TEXTS:
            ids = llm.encode(text)
            assert model.tokenize(text.encode(), add_bos=False, special=False) == ids
            want = torch.cat([runner.next_logits([Segment(ids[: n + 1])]) for n in range(len(ids))])
            got = computed(model, ids)
            assert torch.equal(got.argmax(1), want.argmax(1))
            assert float((got - want).abs().max()) < 0.05


@pytest.mark.slow
def test_llama_cpp_computes_every_variant_that_is_exported(tmp_path: Path) -> None:
    config, state = random_folder(tmp_path / "hf", **TANH)
    export_gguf(open_checkpoint(tmp_path / "hf"), tmp_path / "x.gguf", None)
    got = computed(llama(tmp_path / "x.gguf", 24), IDS)
    want = logits(state, config, IDS)
    assert torch.equal(got.argmax(1), want.argmax(1))
    torch.testing.assert_close(got.double(), want, atol=0.05, rtol=0)
