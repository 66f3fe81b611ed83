"""Hugging Face transformers: ``GPT2LMHeadModel`` with its default growing cache, eager or SDPA attention."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
import transformers
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from peers.base import Engine, Logits
from peers.weights import EPSILON, Linear, Weights


class Eager(Engine):
    """Attention as plain matrix products."""

    dtypes = ("float32", "bfloat16")
    attention: ClassVar[str] = "eager"

    @property
    def version(self) -> str:
        return f"{transformers.__version__} (torch {torch.__version__})"

    @classmethod
    def convert(cls, weights: Weights, dtype: str, target: Path) -> None:
        size = weights.size
        config = GPT2Config(
            vocab_size=size.vocabulary,
            n_positions=size.positions,
            n_embd=size.hidden,
            n_layer=size.layers,
            n_head=size.heads,
            activation_function="gelu_new",
            layer_norm_epsilon=EPSILON,
            bos_token_id=None,
            eos_token_id=None,
        )
        model = GPT2LMHeadModel(config)
        state = {
            "transformer.wte.weight": torch.from_numpy(weights.words),
            "transformer.wpe.weight": torch.from_numpy(weights.positions),
            **_norm("transformer.ln_f", weights.last_norm),
        }
        for n in range(size.layers):
            layer, at = weights.layer(n), f"transformer.h.{n}"
            state |= _norm(f"{at}.ln_1", layer["norm1"]) | _norm(f"{at}.ln_2", layer["norm2"])
            state |= _conv(f"{at}.attn.c_attn", layer["qkv"]) | _conv(f"{at}.attn.c_proj", layer["dense"])
            state |= _conv(f"{at}.mlp.c_fc", layer["up"]) | _conv(f"{at}.mlp.c_proj", layer["down"])
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
        model.tie_weights()
        model.to(getattr(torch, dtype)).save_pretrained(target)

    def load(self, target: Path, dtype: str, threads: int, batch: int) -> None:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._model = GPT2LMHeadModel.from_pretrained(
            target, dtype=getattr(torch, dtype), attn_implementation=self.attention
        ).eval()

    def first(self, prompts: list[list[int]]) -> Logits:
        self._cache = DynamicCache(config=self._model.config)
        return self._run(torch.tensor(prompts))

    def step(self, ids: list[int]) -> Logits:
        return self._run(torch.tensor(ids)[:, None])

    @torch.inference_mode()
    def _run(self, ids: torch.Tensor) -> Logits:
        out = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        logits: Logits = out.logits[:, -1].float().numpy()
        return logits

    def end(self) -> None:
        del self._cache


class Sdpa(Eager):
    """Attention by torch's fused kernel."""

    attention = "sdpa"


def _norm(name: str, norm: Linear) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": torch.from_numpy(norm.weight), f"{name}.bias": torch.from_numpy(norm.bias)}


def _conv(name: str, linear: Linear) -> dict[str, torch.Tensor]:
    """GPT-2's Conv1D holds ``[inputs, outputs]``."""
    return {
        f"{name}.weight": torch.from_numpy(linear.weight.T.copy()),
        f"{name}.bias": torch.from_numpy(linear.bias),
    }
