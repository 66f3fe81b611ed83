"""cpm_gen through its engine on token ids, as the command line and the Python interface run it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import cpm_gen
from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.sequence import Request, Sequence
from cpm_gen.networks.interface import Segment
from peers.base import Decoded, Engine, Logits

GREEDY = SamplingParams(temperature=0.0)


class Ours(Engine):
    """Reads the checkpoint directly: ``target`` is its folder, with the number of heads in ``config.json``."""

    dtypes = ("float32", "bfloat16", "int8")

    @property
    def version(self) -> str:
        return cpm_gen.__version__

    def load(self, target: Path, dtype: str, threads: int, batch: int, **options: Any) -> None:
        precision: Any = {"quantize": "int8"} if dtype == "int8" else {"dtype": dtype}
        self.llm = cpm_gen.load(target, threads=threads, batch=batch, **precision, **options)

    def add(self, prompt: list[int], tokens: int) -> Sequence:
        """Queue a prompt to be continued by ``tokens`` tokens."""
        window = self.llm.window
        return self.llm.engine.token_engine.add(
            Request(prompt=tuple(prompt), window=window, ends=None, params=GREEDY, seed=0, max_new_tokens=tokens)
        )

    def logits(self, ids: list[int]) -> Logits:
        """Logits ``[vocabulary]`` after a prompt; in float32 the reference for every other engine."""
        row: Logits = self.llm.engine.loaded.runner.next_logits([Segment(ids)])[0].numpy()
        return row

    def decode(self, prompts: list[list[int]], tokens: int, seconds: float) -> Decoded:
        engine = self.llm.engine.token_engine
        began = time.perf_counter()
        texts = [self.add(prompt, tokens) for prompt in prompts]
        while any(text.step == 0 for text in texts):
            engine.step()
        now = time.perf_counter()
        first, times = now - began, []
        while engine.busy and now - began - first < seconds:
            before = now
            advanced = engine.step()
            now = time.perf_counter()
            if len(advanced) == len(texts):  # texts that began a step earlier also end a step earlier
                times.append(now - before)
        for text in texts:
            engine.cancel(text)
        return Decoded(first, times, [text.new_tokens for text in texts])
