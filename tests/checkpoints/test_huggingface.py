"""Hugging Face folders: what they compute, in every form and variant; and what is refused, in one line that names file and field."""

import json
import os
import pickle
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import cpm_gen
from cpm_gen.checkpoints.inspect import describe, to_text
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.checkpoints.reshard import reshard
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.errors import CheckpointError
from cpm_gen.llm import LLM
from cpm_gen.networks.interface import Segment
from tests.huggingface_folders import (
    CONFIG,
    ODD,
    logits,
    random_folder,
    random_weights,
    write_folder,
    write_safetensors,
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


@pytest.mark.parametrize(("kernels", "degree"), [("native", 2), ("native", 4), ("torch", 2)])
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


def config_with(**fields: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def stored(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        state = random_weights(CONFIG)
        change(state)
        write_safetensors(folder / "model.safetensors", state)

    return rewrite


def renamed(to: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / to)

    return change


def indexed(content: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))

    return change


WTE = "transformer.wte.weight"
BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (without("config.json"), "no config.json there"),
    "config cut off": (lambda f: (f / "config.json").write_text('{"n_layer": 2,'), r"config\.json: not a JSON object"),
    "other family": (config_with(model_type="llama"), r"config\.json: model_type is 'llama'"),
    "other class": (config_with(model_type=None, architectures=["BertModel"]), r"config\.json: architectures is"),
    "relu": (config_with(activation_function="relu"), r"config\.json: activation_function is 'relu'"),
    "no function": (config_with(activation_function=3), r"config\.json: activation_function is 3"),
    "unscaled": (config_with(scale_attn_weights=False), r"config\.json: scale_attn_weights is False"),
    "cross-attention": (config_with(add_cross_attention=True), r"config\.json: add_cross_attention is True"),
    "remote code": (config_with(auto_map={"AutoModel": "evil.Model"}), r"config\.json: auto_map: .* never run"),
    "pruned": (config_with(pruned_heads={"0": [1]}), r"config\.json: pruned_heads"),
    "quantized": (config_with(quantization_config={"bits": 4}), r"config\.json: quantization_config"),
    "gpt2-ml": (config_with(emb_norm=True), r"config\.json: emb_norm"),
    "epsilon": (config_with(layer_norm_epsilon="small"), r"config\.json: layer_norm_epsilon must be a number"),
    "no epsilon": (config_with(layer_norm_epsilon=0), r"config\.json: layer_norm_epsilon must be a number"),
    "layers": (config_with(n_layer=3), r"config\.json: n_layer is 3, but model\.safetensors holds 2 layers"),
    "hidden": (config_with(n_embd=64), r"config\.json: n_embd is 64, but transformer\.wte\.weight has 32 columns"),
    "vocabulary": (config_with(vocab_size=60), r"config\.json: vocab_size is 60, but .*wte\.weight has 61 rows"),
    "positions": (config_with(n_positions=32), r"config\.json: n_positions is 32, but .*wpe\.weight has 24 rows"),
    "heads": (config_with(n_head=5), r"config\.json: n_head is 5, which does not divide n_embd 32"),
    "many heads": (config_with(n_head=10**30), r"config\.json: n_head must be a whole number"),
    "inner": (config_with(n_inner=-4), r"config\.json: n_inner must be at least 1"),
    "other inner": (config_with(n_inner=64), r"mlp\.c_fc\.weight has shape \[32, 128\], but .* has \[32, 64\]"),
    "no head": (config_with(tie_word_embeddings=False), r"lm_head\.weight is missing.*tie_word_embeddings"),
    "missing": (
        stored(lambda s: s.pop("transformer.h.0.attn.c_proj.bias")),
        r"model\.safetensors: tensor transformer\.h\.0\.attn\.c_proj\.bias is missing",
    ),
    "no words": (stored(lambda s: s.pop(WTE)), r"model\.safetensors: no tensor transformer\.wte\.weight"),
    "transposed": (
        stored(lambda s: s.update({"transformer.h.1.attn.c_attn.weight": torch.zeros(96, 32)})),
        r"h\.1\.attn\.c_attn\.weight has shape \[96, 32\].* it is transposed",
    ),
    "integers": (
        stored(lambda s: s.update({"transformer.ln_f.bias": torch.zeros(32, dtype=torch.int64)})),
        r"transformer\.ln_f\.bias is torch\.int64, not float32",
    ),
    "embedding norm": (
        stored(lambda s: s.update({"transformer.emb_norm.weight": torch.zeros(32)})),
        r"unexpected tensor 'transformer\.emb_norm\.weight': GPT-2 ML",
    ),
    "a bias of attention": (
        stored(lambda s: s.update({"transformer.h.0.attn.bias": torch.zeros(32)})),
        r"unexpected tensor 'transformer\.h\.0\.attn\.bias'",
    ),
    "a classifier": (
        stored(lambda s: s.update({"score.weight": torch.zeros(2, 32)})),
        r"unexpected tensor 'score\.weight'",
    ),
    "TensorFlow": (renamed("tf_model.h5"), r"only 'tf_model\.h5': weights of TensorFlow"),
    "Flax": (renamed("flax_model.msgpack"), r"only 'flax_model\.msgpack': weights of Flax"),
    "adapter": (renamed("adapter_model.safetensors"), "only a LoRA adapter"),
    "another name": (renamed("weights.safetensors"), r"no model\.safetensors .*it holds 'weights\.safetensors'"),
    "index outside": (
        indexed({"weight_map": {WTE: "../outside.safetensors"}}),
        r"index\.json: weight_map puts 'transformer\.wte\.weight' in '\.\./outside\.safetensors'",
    ),
    "index to a folder": (indexed({"weight_map": {WTE: ".."}}), r"index\.json: weight_map puts"),
    "index to a number": (indexed({"weight_map": {WTE: 3}}), r"index\.json: weight_map puts"),
    "index to nothing": (
        indexed({"weight_map": {WTE: "model-2.safetensors"}}),
        r"model-2\.safetensors: no such file, but model\.safetensors\.index\.json names it",
    ),
    "no index": (indexed([]), r"index\.json: must hold a JSON object with weight_map"),
    "pointer": (
        lambda f: (f / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
        r"model\.safetensors: .* a Git LFS pointer",
    ),
    "web page": (lambda f: (f / "model.safetensors").write_text("<!doctype html>"), r"model\.safetensors: .*web page"),
    "empty file": (lambda f: (f / "model.safetensors").write_bytes(b""), r"model\.safetensors: the file is empty"),
    "cut off": (
        lambda f: os.truncate(f / "model.safetensors", (f / "model.safetensors").stat().st_size - 300),
        r"model\.safetensors: the file ends before its tensors do .*truncated",
    ),
    "cut off in the header": (
        lambda f: os.truncate(f / "model.safetensors", 500),
        r"model\.safetensors: not a readable safetensors file",
    ),
    "a pipe": (
        lambda f: (without("model.safetensors")(f), os.mkfifo(f / "model.safetensors"))[0],
        r"model\.safetensors: a device or pipe",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_one_line_that_names_file_and_field(tmp_path: Path, case: str) -> None:
    folder = tmp_path / "net"
    random_folder(folder)
    change, message = BROKEN[case]
    change(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    with pytest.raises(CheckpointError):
        reshard(folder, 1, tmp_path / "written")
    assert sorted(folder.iterdir()) == before
    assert not (tmp_path / "written").exists()


class Evil:
    """Runs code when a pickle that holds it is read by Python."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("form", ["bin", "legacy", "pickle"])
def test_a_pickle_that_names_code_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    folder, canary = tmp_path / "net", tmp_path / "canary"
    write_folder(folder, CONFIG, {})
    without("model.safetensors")(folder)
    content = {**random_weights(CONFIG), "transformer.extra": Evil(canary)}
    path = folder / "pytorch_model.bin"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Evil(canary)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: "):
        open_checkpoint(folder)
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_opens_or_is_a_checkpoint_error(tmp_path: Path) -> None:
    random_folder(tmp_path, n_layer=1)
    path, dice = tmp_path / "model.safetensors", random.Random(5)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    outcomes = {"opened": 0, "refused": 0}
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(dice.choice((1, 1, 3))):
            damaged[dice.randrange(header)] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            for tensor in open_checkpoint(tmp_path).tensors.values():
                tensor.shards[0].view().sum()
            outcomes["opened"] += 1
        except CheckpointError as error:
            assert str(tmp_path) in str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] > 200


def header_of(content: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            header_of({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"0123"),
            "does not fill its 4 bytes",
        ),
        (
            header_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"01234567"),
            "overlap or leave gaps",
        ),
        (header_of({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"0123 "), "1 bytes after its last"),
        (header_of({"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"0"), "'F8_E4M3', not F32"),
        (header_of({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}), "not a dtype, a shape and a range"),
        (header_of({"a": {"dtype": "F32", "shape": [10**40], "data_offsets": [0, 4]}}), "not a dtype, a shape"),
        (header_of({"a": 3}), "not a dtype, a shape and a range"),
        (header_of({"__metadata__": {"a": 3}}), "must hold strings"),
        (b"\x0c" + bytes(7) + b'{"a":1,"a":2}'[:12], "not JSON"),
        (b"\x10" + bytes(7) + b'{"a":{},"a":{} }', "a name stands there twice"),
        (b"\xff" * 8 + b"{}", "too few for a header"),
        (len(b"[" * 5000).to_bytes(8, "little") + b"{" + b"[" * 4999, "not JSON"),
    ],
)
def test_a_header_that_cannot_be_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    random_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: .*{re.escape(message)}"):
        open_checkpoint(tmp_path)


def test_a_header_length_that_reads_as_text_is_no_other_kind_of_file(tmp_path: Path) -> None:
    """A header of 0x7b20 bytes begins with a space and a brace."""
    _, state = random_folder(tmp_path)
    for length in (1000, 0x7B20):
        write_safetensors(tmp_path / "model.safetensors", state, {"filling": "x" * length})
        content = (tmp_path / "model.safetensors").read_bytes()
        missing = 0x7B20 - int.from_bytes(content[:8], "little")
        if missing >= 0:
            break
    write_safetensors(tmp_path / "model.safetensors", state, {"filling": "x" * (1000 + missing)})
    assert (tmp_path / "model.safetensors").read_bytes()[:2] == b" {"
    assert open_checkpoint(tmp_path).layers == 2


OPEN = """
import sys
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
