"""A sample of what a network writes while it is trained."""

from __future__ import annotations

from typing import Any

import torch

from cpm_gen.config.options import StyleName
from cpm_gen.text.prompt_styles import detokenizer, encode_prompt
from cpm_gen.text.tokenizer import TextTokenizer

_TOKENS = 48


class Sampler:
    """Writes the same beginning on, with the same random numbers each time."""

    def __init__(self, tokenizer: TextTokenizer, style: StyleName, prompt: str, seed: int) -> None:
        self._tokenizer, self._style, self._prompt, self._seed = tokenizer, style, prompt, seed
        self._ids = encode_prompt(style, prompt, tokenizer)

    def __call__(self, model: Any) -> str:
        """The prompt and what follows, in a line. The state of torch's random numbers stays as it is."""
        device = next(model.parameters()).device
        ids = torch.tensor([self._ids], device=device)[:, -int(model.config.n_positions) // 2 :]
        trained = model.training
        model.eval()
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
            torch.manual_seed(self._seed)
            for _ in range(min(_TOKENS, int(model.config.n_positions) - ids.shape[1])):
                logits = model(input_ids=ids, use_cache=False).logits[0, -1].float()
                logits = torch.topk(logits / 0.9, min(50, len(logits)))
                drawn = torch.multinomial(logits.values.softmax(-1), 1)
                ids = torch.cat([ids, logits.indices[drawn][None]], dim=1)
        model.train(trained)
        reader = detokenizer(self._style, self._tokenizer)
        written = "".join(reader.push(i) for i in ids[0, len(self._ids) :].tolist() if i < self._tokenizer.size)
        return f"{self._prompt} {' '.join((written + reader.flush()).split())}"
