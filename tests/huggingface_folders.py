"""Random GPT-2 networks as Hugging Face folders, and what such a network computes; shares no code with the package."""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-05,
    "n_layer": 2,
    "n_head": 4,
    "n_embd": 32,
    "n_positions": 24,
    "vocab_size": 61,
    "bos_token_id": 50256,
}
# every difference at once; 61 rows are a prime number
ODD = {
    "activation_function": "gelu",
    "layer_norm_epsilon": 0.1,
    "n_inner": 80,
    "scale_attn_by_inverse_layer_idx": True,
    "tie_word_embeddings": False,
}
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8", torch.int64: "I64"}


def random_weights(config: Mapping[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Weights by transformers' names, with the prefix ``transformer.``."""
    generator = torch.Generator().manual_seed(seed)
    h, inner = config["n_embd"], config.get("n_inner") or 4 * config["n_embd"]
    shapes = {"wte.weight": (config["vocab_size"], h), "wpe.weight": (config["n_positions"], h)}
    for n in range(config["n_layer"]):
        for name, shape in {"attn.c_attn": (h, 3 * h), "attn.c_proj": (h, h), "mlp.c_fc": (h, inner)}.items():
            shapes |= {f"h.{n}.{name}.weight": shape, f"h.{n}.{name}.bias": shape[1:]}
        shapes |= {f"h.{n}.mlp.c_proj.weight": (inner, h), f"h.{n}.mlp.c_proj.bias": (h,)}
        shapes |= {f"h.{n}.{norm}.{kind}": (h,) for norm in ("ln_1", "ln_2") for kind in ("weight", "bias")}
    shapes |= {"ln_f.weight": (h,), "ln_f.bias": (h,)}
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator) * (0.1 if name.endswith("bias") else 0.25)
        state[f"transformer.{name}"] = (values + float(".ln_" in f".{name}" and name.endswith("weight"))).to(dtype)
    if config.get("tie_word_embeddings") is False:
        state["lm_head.weight"] = (torch.randn(shapes["wte.weight"], generator=generator) * 0.25).to(dtype)
    return state


def logits(state: Mapping[str, Tensor], config: Mapping[str, Any], ids: Sequence[int]) -> Tensor:
    """Logits ``[ids, vocabulary]`` of GPT-2 after each id, in float64."""
    weights = {name.removeprefix("transformer."): value.double() for name, value in state.items()}
    h, heads, count = config["n_embd"], config["n_head"], len(ids)
    x = weights["wte.weight"][list(ids)] + weights["wpe.weight"][:count]

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + config.get("layer_norm_epsilon", 1e-5)).sqrt()
        return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x: Tensor) -> Tensor:
        if config.get("activation_function") == "gelu":
            return x * (1 + torch.erf(x / math.sqrt(2))) / 2
        return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2

    later = torch.ones(count, count, dtype=torch.bool).triu(1)
    for n in range(config["n_layer"]):
        q, k, v = linear(norm(x, f"h.{n}.ln_1"), f"h.{n}.attn.c_attn").split(h, dim=1)
        mixed = []
        for at in range(0, h, h // heads):
            scores = q[:, at : at + h // heads] @ k[:, at : at + h // heads].T / math.sqrt(h // heads)
            if config.get("scale_attn_by_inverse_layer_idx"):
                scores = scores / (n + 1)
            mixed.append(scores.masked_fill(later, -torch.inf).softmax(-1) @ v[:, at : at + h // heads])
        x = x + linear(torch.cat(mixed, 1), f"h.{n}.attn.c_proj")
        x = x + linear(gelu(linear(norm(x, f"h.{n}.ln_2"), f"h.{n}.mlp.c_fc")), f"h.{n}.mlp.c_proj")
    return norm(x, "ln_f") @ weights.get("lm_head.weight", weights["wte.weight"]).T


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file, written after its published description."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    blocks, at = [], 0
    for name, value in tensors.items():
        block = value.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b""
        header[name] = {"dtype": _NAMES[value.dtype], "shape": list(value.shape), "data_offsets": [at, at + len(block)]}
        blocks.append(block)
        at += len(block)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blocks))


def write_folder(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], form: str = "safetensors", files: int = 1
) -> Path:
    """form: "safetensors", "bin", or "legacy", which is torch.save's older format. files: more than one are listed in an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    stem, suffix = ("model", ".safetensors") if form == "safetensors" else ("pytorch_model", ".bin")

    def write(path: Path, part: dict[str, Tensor]) -> None:
        if form == "safetensors":
            write_safetensors(path, part, {"format": "pt"})
        else:
            torch.save(part, path, _use_new_zipfile_serialization=form == "bin")

    if files == 1:
        write(folder / f"{stem}{suffix}", dict(state))
        return folder
    mapped = {name: f"{stem}-{n % files + 1:05}-of-{files:05}{suffix}" for n, name in enumerate(state)}
    for file in sorted(set(mapped.values())):
        write(folder / file, {name: state[name] for name in state if mapped[name] == file})
    index = {"metadata": {"total_size": 0}, "weight_map": mapped}
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps(index))
    return folder


def random_folder(
    folder: Path, *, dtype: torch.dtype = torch.float32, form: str = "safetensors", files: int = 1, **config: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Write a random network with these fields of config.json; returns the config and the weights."""
    whole = {**CONFIG, **config}
    state = random_weights(whole, dtype=dtype)
    write_folder(folder, whole, state, form, files)
    return whole, state
