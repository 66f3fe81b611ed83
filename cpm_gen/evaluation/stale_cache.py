"""The original's cached decoding, which is wrong past the window: a reference for what that costs.

Its ``*_fast`` scripts cache keys and values. Once the window is full, each step drops the oldest entry and runs the new token at the last
position. The other keys keep the position embedding that they were computed with, so the network sees one position many times, and
an order of tokens that it was never trained on. Here this runs on the torch network; only the cache differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from cpm_gen.checkpoints.formats.onnx_file import is_onnx
from cpm_gen.checkpoints.locate import model_folder
from cpm_gen.config.options import ModelOptions
from cpm_gen.engine.sequence import Request
from cpm_gen.errors import ConfigError
from cpm_gen.networks.interface import Segment
from cpm_gen.networks.torch.kv_cache import KVCache
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.runtime.text_engine import TextEngine
from cpm_gen.sampling.sample import Draw

Progress = Callable[[int], None]  # tokens done, of all texts together


class StaleCache(KVCache):
    """A slot holds the last ``limit`` tokens' keys and values as they were computed; a new one replaces the oldest."""

    def __init__(self, network: TorchModel, slots: int, limit: int) -> None:
        size = network.size
        super().__init__(
            layers=size.layers,
            slots=slots,
            heads=size.heads // network.group.size,
            positions=limit,
            head_dim=size.hidden // size.heads,
            dtype=network.dtype,
            device=network.device,
        )
        self._limit = limit
        self._seen = np.zeros((size.layers, slots), dtype=np.int64)

    def extend(self, layer: int, slot: int, start: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Like :meth:`KVCache.extend`; ``start`` does not matter: tokens come in order, one at a time once the slot is full."""
        seen, count = int(self._seen[layer, slot]), keys.shape[1]
        self._seen[layer, slot] += count
        if seen < self._limit:
            return super().extend(layer, slot, seen, keys, values)
        # attention does not depend on the order of keys, so the oldest one's place is as good as the last
        place = seen % self._limit
        super().extend(layer, slot, place, keys, values)
        store = self.store[layer, :, slot]
        return store[0], store[1]


def check_stale(options: ModelOptions) -> None:
    """Raise ConfigError for a model whose network torch cannot load."""
    if is_onnx(model_folder(options.model)):
        raise ConfigError(
            "the stale cache is computed in torch, which cannot load an ONNX file; leave it out: --no-stale"
        )


@contextmanager
def torch_network(options: ModelOptions) -> Iterator[TorchModel]:
    """Load a model's network in torch on one rank, whatever backend the options ask for."""
    changed = dataclasses.replace(options, kernels="torch", kv_cache="auto", tensor_parallel=1, decoder="recompute")
    with TextEngine.load(changed) as engine:
        network = engine.loaded.runner.network
        assert isinstance(network, TorchModel)
        yield network


class StaleDecoder:
    """Runs several texts side by side, each in its slot."""

    def __init__(self, network: TorchModel, texts: int, limit: int) -> None:
        self._network = network
        self._limit = limit
        self._cache = StaleCache(network, texts, limit)

    def begin(self, slot: int, ids: Sequence[int]) -> Tensor:
        """Run the first tokens of a text, at most ``limit``; logits ``[V]`` of the next token."""
        return self._network.next_logits([Segment(ids, 0, slot)], self._cache)[0]

    def score_first(self, slot: int, ids: Sequence[int], targets: Sequence[int]) -> list[float]:
        """Like :meth:`begin`; log-probability of each of the last ``len(targets)`` tokens' successors."""
        scores: list[float] = self._network.score(Segment(ids, 0, slot), targets, self._cache).tolist()
        return scores

    def step(self, tokens: Sequence[tuple[int, int, int]]) -> Tensor:
        """Run a token of each text: (slot, token, its index in the text). Logits ``[texts, V]`` of the next ones."""
        segments = [Segment([token], min(at, self._limit - 1), slot) for slot, token, at in tokens]
        return self._network.next_logits(segments, self._cache)


def score_stale(
    network: TorchModel,
    texts: Sequence[Sequence[int]],
    limit: int,
    progress: Progress = lambda done: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[list[float]] | None:
    """Natural log-probability of each token of each text from the second on, given the ones before it as the stale cache has them.

    None if ``stop`` said so.
    """
    decoder = StaleDecoder(network, len(texts), limit)
    scores = []
    for slot, ids in enumerate(texts):
        first = ids[: min(limit, len(ids) - 1)]
        scores.append(decoder.score_first(slot, first, ids[1 : len(first) + 1]))
    for at in range(limit, max(map(len, texts)) - 1):
        running = [slot for slot, ids in enumerate(texts) if at + 1 < len(ids)]
        rows = torch.log_softmax(decoder.step([(slot, texts[slot][at], at) for slot in running]), dim=-1)
        for slot, row in zip(running, rows, strict=True):
            scores[slot].append(float(row[texts[slot][at + 1]]))
        progress(sum(map(len, scores)))
        if stop():
            return None
    return scores


def write_stale(
    network: TorchModel,
    requests: Sequence[Request],
    limit: int,
    count: int,
    progress: Progress = lambda done: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[list[int]] | None:
    """Continue each request's prompt, of at most ``limit`` tokens, by ``count`` tokens, sampled as the engine samples; None if stopped."""
    decoder = StaleDecoder(network, len(requests), limit)
    rows = torch.stack([decoder.begin(slot, request.prompt) for slot, request in enumerate(requests)])
    texts = [list(request.prompt) for request in requests]
    for step in range(count):
        for request, text, row in zip(requests, texts, rows, strict=True):
            text.append(_draw(request, text, limit, step).choose(row.cpu().numpy()))
        rows = decoder.step([(slot, text[-1], len(text) - 1) for slot, text in enumerate(texts)])
        progress((step + 1) * len(requests))
        if stop():
            return None
    return [text[len(request.prompt) :] for request, text in zip(requests, texts, strict=True)]


def _draw(request: Request, text: Sequence[int], limit: int, step: int) -> Draw:
    written = text[max(len(request.prompt), len(text) - limit) :]
    history = text if request.params.dry_multiplier else ()
    return Draw(request.params, text[-limit:], written, (), request.seed, request.sample_index, step, history)
