"""What is refused of Hugging Face folders, in one line that names file and field; nothing runs, nothing is written."""

import json
import os
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.errors import CheckpointError
from cpm_gen.runtime.reshard import reshard
from tests.huggingface_folders import CONFIG, random_folder, random_weights, write_folder, write_safetensors


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
