"""The network with fixed buffers and one CUDA graph for each number of rows, which replays all layers at once.

A step's tokens become rows (:mod:`cpm_gen.networks.cuda_graphs.layer_ops`). A pass runs up to ``ROWS[-1]`` rows, padded to the next
number in ``ROWS`` with rows that write to a slot reserved for padding. The host sends one small array before a pass and
synchronises once a step, when the tokens are read. The head and sampling are launched while the GPU runs the layers, so they
need no graph.

For one rank. The parameters belong to a :class:`cpm_gen.networks.torch.model.TorchModel`, which also runs segments without a
slot: whole contexts and scores. On a CPU the same code runs without graphs; the tests use that.
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

from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import ModelOptions
from cpm_gen.networks.cuda_graphs.layer_ops import TILE, RowOps, Rows
from cpm_gen.networks.interface import Segment
from cpm_gen.networks.torch import load_weights
from cpm_gen.networks.torch.model import TorchModel
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.sampling.batched import send
from cpm_gen.sampling.logprobs import TopCollector

ROWS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
_IDS, _SLOTS, _POSITIONS, _FIRSTS, _COUNTS = range(5)

SegmentRange = tuple[Segment, int, int]  # a segment, and the range of its tokens

_log = logging.getLogger(__name__)


class Graphed:
    """A function over fixed buffers without a result; on a GPU it is captured once and replayed.

    pool: memory that the graphs share, since they never run at the same time. stream: where they are captured. Both None on a CPU.
    """

    def __init__(self, function: Callable[[], None], device: torch.device, pool: Any, stream: Any) -> None:
        self.run = function
        if device.type != "cuda":
            return
        # run before the capture: compiles kernels and creates what is created on first use
        for _ in range(2):
            function()
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            function()
        self.run = graph.replay


class StaticCache:
    """Keys and values of ``slots`` windows, the buffers of a pass, and its graphs. One window more is kept for padding rows."""

    @torch.inference_mode()
    def __init__(self, model: TorchModel, ops: RowOps, slots: int) -> None:
        self._model = model
        self._ops = ops
        self.slots = slots
        self.store = model.make_cache(slots + 1).store  # the last slot takes the padding rows
        # masked positions are multiplied by 0, which would not hide a NaN in uninitialised memory
        self.store.zero_()
        self._plan = torch.zeros(5, ROWS[-1], dtype=torch.int64, device=model.device)
        self._plan[_SLOTS] = slots
        self._hidden = torch.zeros(ROWS[-1], model.size.hidden, dtype=model.dtype, device=model.device)
        began, before = time.perf_counter(), _reserved(model.device)
        gpu = model.device.type == "cuda"
        pool = torch.cuda.graph_pool_handle() if gpu else None
        stream = torch.cuda.Stream(model.device) if gpu else None  # type: ignore[no-untyped-call]
        # the largest first: the others reuse its memory
        self._graphs = {rows: Graphed(self._body(rows), model.device, pool, stream) for rows in reversed(ROWS)}
        if gpu:  # the head is in no graph: compile its kernels now, not during a request
            for rows in ROWS:
                ops.head(self._hidden[:rows], model.output_head)
        taken, seconds = _reserved(model.device) - before, time.perf_counter() - began
        _log.info("%d graphs in %.1f s, %.0f MiB in addition to the cache", len(ROWS), seconds, taken / 2**20)

    def _tiles(self, rows: int) -> int:
        """Upper bound on tiles in a pass of that many rows: each slot occurs once, and padding adds one."""
        return min(rows, rows // TILE + self.slots + 1)

    def _body(self, count: int) -> Callable[[], None]:
        model, ops = self._model, self._ops
        ids, slots, positions = self._plan[:_FIRSTS, :count]
        firsts, counts = self._plan[_FIRSTS:, : self._tiles(count)]
        rows = Rows(slots, positions, firsts, counts)

        def body() -> None:
            layers: Any = model.transformer.layers
            x = model.word_embeddings(ids) + model.position_embeddings(positions)
            branch = None
            for layer, store in zip(layers, self.store, strict=True):
                x, y = ops.add_norm(x, branch, layer.input_layernorm)
                q = ops.project(y, layer.attention.query_key_value, store, rows)
                if layer.attention.divisor > 1:
                    q = q / layer.attention.divisor
                branch = ops.branch(ops.attend(q, store, rows), layer.attention.dense)
                x, y = ops.add_norm(x, branch, layer.post_attention_layernorm)
                inner = ops.gelu(y, layer.mlp.dense_h_to_4h, layer.mlp.approximate)
                branch = ops.branch(inner, layer.mlp.dense_4h_to_h)
            self._hidden[:count] = ops.add_norm(x, branch, model.transformer.final_layernorm)[1]

        return body

    def hidden(self, segments: Sequence[Segment]) -> Tensor:
        """Final hidden states ``[wanted, hidden]`` after the last token of each segment that wants logits."""
        device = self._model.device
        parts = []
        for ranges in passes(segments):
            plan, ends = self._plan_of(ranges)
            self._plan[:, : plan.shape[1]].copy_(send(plan, device), non_blocking=True)
            self._graphs[plan.shape[1]].run()
            if ends:
                parts.append(self._hidden[send(np.array(ends), device)])
        return torch.cat(parts) if parts else self._hidden[:0]

    def _plan_of(self, ranges: Sequence[SegmentRange]) -> tuple[NDArray[np.int64], list[int]]:
        """The padded plan of a pass, int64 ``[5, rows]``, and the rows that want logits."""
        total = sum(end - begin for _, begin, end in ranges)
        size = next(n for n in ROWS if n >= total)
        plan = np.zeros((5, size), dtype=np.int64)
        plan[_SLOTS] = self.slots
        ends, tiles, at = [], [(first, min(TILE, size - first)) for first in range(total, size, TILE)], 0
        for segment, begin, end in ranges:
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


def passes(segments: Sequence[Segment]) -> Iterator[list[SegmentRange]]:
    """The segments, cut into passes of at most ``ROWS[-1]`` rows."""
    part: list[SegmentRange] = []
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
    """The network of ``model`` on CUDA graphs; see :class:`cpm_gen.networks.interface.Network`. For one rank."""

    samples = True
    logit_kernels = None

    def __init__(self, model: TorchModel, ops: RowOps) -> None:
        assert model.group.size == 1
        self.model = model
        self.group = model.group
        self.size = model.size
        self._ops = ops

    def make_cache(self, slots: int) -> StaticCache:
        """A cache of ``slots`` full windows, and on a GPU all graphs over it."""
        with self._device():
            return StaticCache(self.model, self._ops, slots)

    @torch.inference_mode()
    def copy_slot(self, cache: StaticCache, source: int, target: int, tokens: int) -> None:
        """See :meth:`cpm_gen.networks.interface.Network.copy_slot`."""
        cache.store[:, :, target, :, :tokens] = cache.store[:, :, source, :, :tokens]

    def _device(self) -> contextlib.AbstractContextManager[None]:
        """Make the model's device current: Triton launches on the current device, not on that of the tensors."""
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
                logits.append(self._ops.head(cache.hidden(kept), self.model.output_head))
        if len(kept) < len(segments):
            logits.append(self.model.next_logits([s for s in segments if s.slot is None], None))
        if len(logits) == 1:
            return logits[0]
        wanted = [s.slot is None for s in segments if s.logits]
        order = np.argsort(np.argsort(wanted, kind="stable"), kind="stable")
        return torch.cat(logits)[send(order, self.model.device)]

    def score(
        self, segment: Segment, targets: Sequence[int], cache: StaticCache | None, top: TopCollector | None = None
    ) -> Tensor:
        """Natural log-probabilities ``[targets]`` of a segment without a slot (see :class:`cpm_gen.networks.interface.Network`)."""
        assert segment.slot is None
        return self.model.score(segment, targets, None, top)

    def profile(self) -> dict[str, float]:
        """Empty: a graph does not measure its parts."""
        return {}


def load_network(
    checkpoint: Checkpoint,
    size: ModelSize,
    group: TensorParallel,
    options: ModelOptions,
    device: torch.device,
    threads: int,
) -> GraphedModel:
    """See :class:`cpm_gen.networks.interface.Backend`."""
    from cpm_gen.networks.cuda_graphs.triton_ops import TritonOps

    return GraphedModel(load_weights.load_network(checkpoint, size, group, options, device, threads), TritonOps())
