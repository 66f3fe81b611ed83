"""The network as a GPU likes it: fixed buffers, and for each number of rows one CUDA graph that replays the whole of it.

A step's tokens become rows (:mod:`cpm_gen.networks.cuda_graphs.layer_ops`);
a pass runs up to ``ROWS[-1]`` of them, filled up to the next number in ``ROWS``
with rows that write to a slot of their own. The host sends one small array before a pass and waits for nothing: where the step's
tokens are read, it waits, once. The head and sampling are launched while the GPU is busy with the layers, so they need no graph.

For one rank. Parameters are those of the :class:`cpm_gen.networks.torch.model.Model` it is made of, which also runs what has no slot: whole
contexts and scores. On a CPU the same code runs without graphs, which is how it is tested.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cpm_gen.networks.cuda_graphs.layer_ops import TILE, RowOps, Rows
from cpm_gen.networks.interface import Segment
from cpm_gen.networks.torch.model import Model
from cpm_gen.sampling.batched import send

ROWS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_IDS, _SLOTS, _POSITIONS, _FIRSTS, _COUNTS = range(5)

Stretch = tuple[Segment, int, int]  # tokens from .. to of a segment

_log = logging.getLogger(__name__)


class Graphed:
    """A function that works on fixed buffers and returns nothing; on a GPU captured once and replayed.

    pool, stream: memory that graphs share, as they never run at the same time, and where they are captured (None on a CPU).
    """

    def __init__(self, function: Callable[[], None], device: torch.device, pool: Any, stream: Any) -> None:
        self.run = function
        if device.type != "cuda":
            return
        # outside of the capture first: kernels are compiled, and whatever is made at its first use is made
        for _ in range(2):
            function()
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            function()
        self.run = graph.replay


class StaticCache:
    """Keys and values of ``slots`` windows, the buffers of a pass, and its graphs."""

    @torch.inference_mode()
    def __init__(self, model: Model, ops: RowOps, slots: int) -> None:
        self._model = model
        self._ops = ops
        self._slots = slots
        self._store = model.make_cache(slots + 1).store  # the last slot is where rows go that only fill the buffer
        # what lies there is never seen, but a masked NaN times 0 would be
        self._store.zero_()
        self._plan = torch.zeros(5, ROWS[-1], dtype=torch.int64, device=model.device)
        self._plan[_SLOTS] = slots
        self._hidden = torch.zeros(ROWS[-1], model.size.hidden, dtype=model.dtype, device=model.device)
        began, before = time.perf_counter(), _reserved(model.device)
        gpu = model.device.type == "cuda"
        pool = torch.cuda.graph_pool_handle() if gpu else None
        stream = torch.cuda.Stream(model.device) if gpu else None  # type: ignore[no-untyped-call]
        # the largest first: its memory serves the others
        self._graphs = {rows: Graphed(self._body(rows), model.device, pool, stream) for rows in reversed(ROWS)}
        if gpu:  # the head is in no graph: its kernels are compiled now, not in somebody's request
            for rows in ROWS:
                ops.head(self._hidden[:rows], model.word_embeddings)
        taken, seconds = _reserved(model.device) - before, time.perf_counter() - began
        _log.info("%d graphs in %.1f s, %.0f MiB beside the cache", len(ROWS), seconds, taken / 2**20)

    def _tiles(self, rows: int) -> int:
        """Most tiles among so many rows: a slot comes once in a pass, and one more fills it up."""
        return min(rows, rows // TILE + self._slots + 1)

    def _body(self, count: int) -> Callable[[], None]:
        model, ops = self._model, self._ops
        ids, slots, positions = self._plan[:_FIRSTS, :count]
        firsts, counts = self._plan[_FIRSTS:, : self._tiles(count)]
        rows = Rows(slots, positions, firsts, counts)

        def body() -> None:
            layers: Any = model.transformer.layers
            x = model.word_embeddings(ids) + model.position_embeddings(positions)
            branch = None
            for layer, store in zip(layers, self._store, strict=True):
                x, y = ops.add_norm(x, branch, layer.input_layernorm)
                q = ops.project(y, layer.attention.query_key_value, store, rows)
                branch = ops.branch(ops.attend(q, store, rows), layer.attention.dense)
                x, y = ops.add_norm(x, branch, layer.post_attention_layernorm)
                branch = ops.branch(ops.gelu(y, layer.mlp.dense_h_to_4h), layer.mlp.dense_4h_to_h)
            self._hidden[:count] = ops.add_norm(x, branch, model.transformer.final_layernorm)[1]

        return body

    def hidden(self, segments: Sequence[Segment]) -> Tensor:
        """Final hidden states ``[wanted, hidden]`` after the last token of each segment that wants logits."""
        device = self._model.device
        parts = []
        for stretches in _passes(segments):
            plan, ends = self._plan_of(stretches)
            self._plan[:, : plan.shape[1]].copy_(send(plan, device), non_blocking=True)
            self._graphs[plan.shape[1]].run()
            if ends:
                parts.append(self._hidden[send(np.array(ends), device)])
        return torch.cat(parts) if parts else self._hidden[:0]

    def _plan_of(self, stretches: Sequence[Stretch]) -> tuple[NDArray[np.int64], list[int]]:
        """A pass's plan, filled up, and which of its rows want logits."""
        total = sum(end - begin for _, begin, end in stretches)
        size = next(n for n in ROWS if n >= total)
        plan = np.zeros((5, size), dtype=np.int64)
        plan[_SLOTS] = self._slots
        ends, tiles, at = [], [(first, min(TILE, size - first)) for first in range(total, size, TILE)], 0
        for segment, begin, end in stretches:
            after = at + end - begin
            assert segment.slot is not None
            plan[_IDS, at:after] = segment.ids[begin:end]
            plan[_SLOTS, at:after] = segment.slot
            plan[_POSITIONS, at:after] = range(segment.start + begin, segment.start + end)
            tiles += [(first, min(TILE, after - first)) for first in range(at, after, TILE)]
            at = after
            if segment.logits and end == len(segment.ids):
                ends.append(at - 1)
        assert len(tiles) <= self._tiles(size), "a slot comes twice in a step"
        plan[_FIRSTS:, : len(tiles)] = np.array(tiles).T
        return plan, ends


def _reserved(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0


def _passes(segments: Sequence[Segment]) -> Iterator[list[Stretch]]:
    """The segments, cut where a pass is full."""
    part: list[Stretch] = []
    room = ROWS[-1]
    for segment in segments:
        begin, length = 0, len(segment.ids)
        while begin < length:
            if room == 0:
                yield part
                part, room = [], ROWS[-1]
            end = min(length, begin + room)
            part.append((segment, begin, end))
            room -= end - begin
            begin = end
    yield part


class GraphedModel:
    """The network of ``model``, one rank's whole, with the same interface."""

    samples = True

    def __init__(self, model: Model, ops: RowOps) -> None:
        assert model.group.size == 1
        self.model = model
        self.group = model.group
        self.size = model.size
        self._ops = ops

    def make_cache(self, slots: int) -> StaticCache:
        """A cache of ``slots`` full windows, and on a GPU all graphs over it."""
        with self._device():
            return StaticCache(self.model, self._ops, slots)

    def _device(self) -> contextlib.AbstractContextManager[None]:
        """Triton launches on this thread's current device, wherever the tensors are."""
        device = self.model.device
        return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()

    @torch.inference_mode()
    def next_logits(self, segments: Sequence[Segment], cache: StaticCache | None) -> Tensor:
        """Logits ``[wanted, vocabulary]`` (fp32, on the device) after the last token of each segment that wants them."""
        kept = [s for s in segments if s.slot is not None]
        logits = []
        if kept:
            assert cache is not None
            with self._device():
                logits.append(self._ops.head(cache.hidden(kept), self.model.word_embeddings))
        if len(kept) < len(segments):
            logits.append(self.model.next_logits([s for s in segments if s.slot is None], None))
        if len(logits) == 1:
            return logits[0]
        wanted = [s.slot is None for s in segments if s.logits]
        order = np.argsort(np.argsort(wanted, kind="stable"), kind="stable")
        return torch.cat(logits)[send(order, self.model.device)]

    def score(self, segment: Segment, targets: Sequence[int], cache: StaticCache | None) -> Tensor:
        """Natural log-probabilities ``[targets]``, as :meth:`cpm_gen.networks.torch.model.Model.score`; of a segment without a slot."""
        assert segment.slot is None
        return self.model.score(segment, targets, None)

    def profile(self) -> dict[str, float]:
        """Nothing: a graph does not say what its time went into."""
        return {}
