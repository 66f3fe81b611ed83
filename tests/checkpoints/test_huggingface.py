"""Hugging Face folders: what they compute, in every form and variant, and what opening them takes."""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import cpm_gen
from cpm_gen.checkpoints.formats.huggingface import Transposed
from cpm_gen.checkpoints.inspect import describe
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.cli.inspect_table import to_text
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.llm import LLM
from cpm_gen.networks.interface import Segment
from cpm_gen.networks.native.model import NativeModel
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.runtime.reshard import reshard
from tests.huggingface_folders import (
    CONFIG,
    ODD,
    logits,
    random_folder,
    random_weights,
    write_folder,
)

IDS = [5, 60, 17, 0, 33, 33, 8, 21, 59, 2, 44, 13]
VARIANTS: dict[str, dict[str, Any]] = {"plain": {}, **{name: {name: value} for name, value in ODD.items()}, "all": ODD}


def computed(llm: LLM, ids: list[int]) -> torch.Tensor:
    """Logits after each id, without a cache."""
    runner = llm.engine.loaded.runner
    return torch.cat([runner.next_logits([Segment(ids[: n + 1])]) for n in range(len(ids))]).double()


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_computes_what_gpt2_computes(tmp_path: Path, variant: str, kernels: str) -> None:
    config, state = random_folder(tmp_path, **VARIANTS[variant])
    with cpm_gen.load(tmp_path, kernels=kernels, dtype="float32") as llm:
        assert llm.size == ModelSize(layers=2, hidden=32, heads=4, vocabulary=61, positions=24)
        torch.testing.assert_close(computed(llm, IDS), logits(state, config, IDS), atol=2e-5, rtol=0)


def test_the_variants_differ(tmp_path: Path) -> None:
    state = random_weights({**CONFIG, "tie_word_embeddings": False})
    plain = logits(state, CONFIG, IDS)
    for field in ("activation_function", "layer_norm_epsilon", "scale_attn_by_inverse_layer_idx"):
        assert (logits(state, {**CONFIG, field: ODD[field]}, IDS) - plain).abs().max() > 5e-4, field


@pytest.mark.parametrize(
    ("kernels", "degree"), [("native", 2), pytest.param("native", 4, marks=pytest.mark.slow), ("torch", 2)]
)
def test_a_vocabulary_that_does_not_divide_runs_on_ranks(tmp_path: Path, kernels: str, degree: int) -> None:
    config, state = random_folder(tmp_path, **ODD)
    want = logits(state, config, IDS)
    with cpm_gen.load(tmp_path, kernels=kernels, dtype="float32", tensor_parallel=degree) as llm:
        got = computed(llm, IDS)
        assert got.shape == (len(IDS), 61)  # no logits of rows that are no tokens
        torch.testing.assert_close(got, want, atol=2e-5, rtol=0)
        scores = want.log_softmax(-1)[range(len(IDS) - 1), IDS[1:]].tolist()
        assert llm.score(IDS)[1:] == pytest.approx(scores, abs=2e-5)


@pytest.mark.parametrize(("form", "files"), [("safetensors", 3), ("bin", 1), ("bin", 2), ("legacy", 1)])
@pytest.mark.parametrize("prefix", ["transformer.", "", "module.transformer."])
def test_every_form_of_file_and_name_holds_the_same_network(tmp_path: Path, form: str, files: int, prefix: str) -> None:
    state = random_weights(CONFIG)
    want = {name: t.shards[0].view().clone() for name, t in open_checkpoint(random_dir(tmp_path)).tensors.items()}
    named = {prefix + name.removeprefix("transformer."): value for name, value in state.items()}
    for n in range(2):  # buffers that transformers stored
        named[f"{prefix}h.{n}.attn.bias"] = torch.ones(1, 1, 24, 24, dtype=torch.uint8).tril()
        named[f"{prefix}h.{n}.attn.masked_bias"] = torch.tensor(-1e4)
    named[prefix.removesuffix("transformer.") + "lm_head.weight"] = state["transformer.wte.weight"].clone()
    checkpoint = open_checkpoint(write_folder(tmp_path / "other", CONFIG, named, form, files))
    assert checkpoint.tensors.keys() == want.keys()
    assert all(torch.equal(checkpoint.tensors[name].shards[0].view(), value) for name, value in want.items())
    assert (checkpoint.heads, checkpoint.variant.tied_head, checkpoint.notes) == (4, True, [])
    assert len(checkpoint.files) == files


@pytest.mark.parametrize("said", [True, False, None])
def test_a_head_with_its_own_numbers_is_used_as_transformers_uses_it(tmp_path: Path, said: bool | None) -> None:
    transformers = pytest.importorskip("transformers", "5")
    state = random_weights({**CONFIG, "tie_word_embeddings": False})
    write_folder(tmp_path, CONFIG if said is None else CONFIG | {"tie_word_embeddings": said}, state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
        with torch.no_grad():
            expected = network(torch.tensor([IDS])).logits[0]
    with cpm_gen.load(tmp_path, dtype="float32") as llm:
        torch.testing.assert_close(computed(llm, IDS), expected.double(), atol=2e-5, rtol=0)
    source = describe(open_checkpoint(tmp_path))["sources"]["tied_head"]
    assert ("though config.json says" in source) == (said is True)


def random_dir(folder: Path) -> Path:
    random_folder(folder / "plain")
    return folder / "plain"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_keep_their_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    _, state = random_folder(tmp_path, dtype=dtype)
    checkpoint = open_checkpoint(tmp_path)
    assert {t.dtype for t in checkpoint.tensors.values()} == {checkpoint.dtype} == {dtype}
    qkv = checkpoint.tensors["transformer.layers.1.attention.query_key_value.weight"]
    assert torch.equal(qkv.shards[0].view(), state["transformer.h.1.attn.c_attn.weight"].T)


def test_sizes_that_config_json_does_not_say_come_from_the_tensors(tmp_path: Path) -> None:
    state = random_weights(CONFIG)
    open_checkpoint(write_folder(tmp_path, {"n_ctx": 24}, state))
    said = describe(open_checkpoint(tmp_path), heads=4)
    assert (said["layers"], said["hidden"], said["vocabulary"], said["positions"]) == (2, 32, 61, 24)
    assert said["sources"]["heads"] == "as given"


def test_inspect_says_what_the_folder_is_and_where_its_values_come_from(tmp_path: Path) -> None:
    random_folder(tmp_path, **ODD)
    said = describe(open_checkpoint(tmp_path))
    assert said["format"] == "Hugging Face GPT-2, safetensors"
    assert said["possible_degrees"] == [1, 2, 4]
    assert said["network"] == {
        "inner": 80,
        "gelu": "erf",
        "epsilon": 0.1,
        "tied_head": False,
        "scale_by_layer": True,
    }
    assert said["sources"]["heads"] == "n_head in config.json"
    text = to_text(said)
    assert "format      Hugging Face GPT-2, safetensors" in text.splitlines()
    assert "erf form" in text
    assert "tensors in model.safetensors" in text


def test_greedy_text_past_the_window_is_the_same_in_both_decoders_and_as_shards(tmp_path: Path) -> None:
    from cpm_gen.config.options import SamplingParams
    from cpm_gen.engine.sequence import Request

    random_folder(tmp_path / "hf", **ODD)
    reshard(tmp_path / "hf", 4, tmp_path / "shards")
    texts = []
    for folder, options in [("hf", {}), ("hf", {"decoder": "recompute"}), ("shards", {"tensor_parallel": 1})]:
        with cpm_gen.load(tmp_path / folder, window_hop=5, dtype="float32", **options) as llm:
            request = Request(tuple(IDS), llm.window, None, SamplingParams(temperature=0.0), 0, max_new_tokens=60)
            written = llm.engine.token_engine.add(request)
            while llm.engine.token_engine.busy:
                llm.engine.token_engine.step()
            texts.append(list(written.tokens))
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0][len(IDS) :])) > 5


def test_resharding_writes_padded_shards_that_hold_the_same_bits(tmp_path: Path) -> None:
    random_folder(tmp_path / "hf", dtype=torch.float16, n_head=8, **ODD)
    (tmp_path / "hf" / "vocab.txt").write_text("[UNK]\n")
    source = open_checkpoint(tmp_path / "hf")
    eight = reshard(tmp_path / "hf", 8, tmp_path / "eight")
    again = reshard(eight, 2, tmp_path / "two")
    for folder, degree in ((eight, 8), (again, 2)):
        found = open_checkpoint(folder)
        assert (found.degree, found.vocabulary, found.variant) == (degree, 61, source.variant)
        assert (folder / "vocab.txt").read_text() == "[UNK]\n"
        for name, tensor in source.tensors.items():
            out = torch.empty(tensor.shape, dtype=torch.float16)
            found.copy_slice(name, 0, 1, out)
            assert torch.equal(out, tensor.shards[0].view()), name
    shard = torch.load(again / "release" / "mp_rank_01_model_states.pt")["module"]
    assert shard["word_embeddings.weight"].shape == (31, 32)
    assert not shard["word_embeddings.weight"][-1].any()


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_folder_and_its_shards_score_with_the_same_bits(tmp_path: Path, quantize: str) -> None:
    random_folder(tmp_path / "hf")
    reshard(tmp_path / "hf", 1, tmp_path / "shards")
    scores = []
    for name in ("hf", "shards"):
        with cpm_gen.load(tmp_path / name, quantize=quantize) as llm:
            scores.append(llm.score(IDS))
    assert scores[0] == scores[1]


OPEN = """
import sys
import warnings
from pathlib import Path
import cpm_gen
from cpm_gen.checkpoints.locate import open_checkpoint

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

cpm_gen.load  # imports torch, which is no part of loading
cpm_gen.load(sys.argv[2]).close()
Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from what is held now
before = peak()
options = {"quantize": "int8"} if sys.argv[3] == "int8" else {"dtype": sys.argv[3]}
with cpm_gen.load(sys.argv[1], batch=1, kernels="native", **options) as llm:
    print(peak() - before, llm.engine.loaded.runner.network.weight_bytes)
"""


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_transposed_matrix_is_packed_before_its_pages_are_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    """Each row of it lies in all its pages: to release them after some rows would read the file several times."""
    config = {**CONFIG, "n_layer": 1, "n_embd": 768, "n_head": 12, "vocab_size": 32, "n_positions": 8}
    write_folder(tmp_path, config, random_weights(config), "safetensors")
    checkpoint = open_checkpoint(tmp_path)
    released: list[tuple[int, ...]] = []
    monkeypatch.setattr(Transposed, "release", lambda self: released.append(self.shape))
    network = NativeModel(checkpoint.size(12), TensorParallel(0, ranks), checkpoint.variant, form="float32", threads=1)
    network.load(checkpoint)
    assert released.count((3072, 768)) == released.count((768, 3072)) == released.count((768, 768)) == 1
    assert released.count((2304, 768)) == 3  # its parts are queries, keys and values


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
@pytest.mark.parametrize(("dtype", "form"), [("float32", "bin"), ("bfloat16", "safetensors"), ("int8", "safetensors")])
def test_opening_holds_the_packed_weights_and_little_more(tmp_path: Path, dtype: str, form: str) -> None:
    """The shape of Wenzhong, with a copy of the embedding as head in the file, which is compared with it."""
    sizes = {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257, "n_positions": 64}
    config = {**CONFIG, **sizes}
    state = random_weights(config)
    write_folder(tmp_path / "large", config, {**state, "lm_head.weight": state["transformer.wte.weight"].clone()}, form)
    random_folder(tmp_path / "small")
    command = [sys.executable, "-c", OPEN, str(tmp_path / "large"), str(tmp_path / "small"), dtype]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    extra, packed = map(int, result.stdout.split())
    print(f"{dtype}, {form}: peak {extra / 1e6:.0f} MB above the imports, {packed / 1e6:.0f} MB packed")
    assert packed * 0.9 < extra < 1.3 * packed
