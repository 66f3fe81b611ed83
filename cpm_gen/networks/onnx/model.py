"""Run a file of ``cpm-gen export --format onnx`` in onnxruntime: a small backend, on CPUs, for one rank.

It keeps the window exact as every backend does: the scheduler encodes a window that moved again, at positions from 0. In a file with
``--past`` a slot holds keys and values; in the others it holds token ids, and each step runs the slot's whole context.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.config.arguments import one_line
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import CheckpointError, ConfigError
from cpm_gen.networks.interface import Segment, score_targets
from cpm_gen.networks.onnx.graph import MASKED, Form
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.sampling.logprobs import TopCollector

Array = npt.NDArray[Any]


@dataclasses.dataclass
class OnnxCache:
    """What each slot holds: token ids, or in a file with ``--past`` keys and values of each layer, ``[1, heads, tokens, head_dim]``."""

    ids: list[list[int]]
    states: list[list[Array]]

    @property
    def slots(self) -> int:
        """Number of windows."""
        return len(self.ids)


def open_session(path: Path, threads: int) -> Any:
    """onnxruntime's session; raises ConfigError if it is not installed, CheckpointError if it refuses the file."""
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(
            "an ONNX file needs onnxruntime: in the checkout, pip install -c constraints.txt -e '.[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised, too
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        raise CheckpointError(f"{path}: onnxruntime cannot open it ({one_line(error, 200)})") from None


def form_of(session: Any) -> Form:
    """What a session's file takes."""
    inputs = {given.name: given.shape for given in session.get_inputs()}
    if "position_ids" not in inputs:
        batch, length = inputs["input_ids"]
        return Form(batch=batch, length=length)
    return Form(past="past_key_0" in inputs)


class OnnxModel:
    """A file in onnxruntime, as a :class:`cpm_gen.networks.interface.Network`."""

    samples = False
    logit_kernels = None

    def __init__(self, path: Path, size: ModelSize, group: TensorParallel, threads: int) -> None:
        self.size, self.group = size, group
        self._session = open_session(path, threads)
        self.form = form_of(self._session)
        kind = self._session.get_outputs()[0].type
        self._dtype = np.float16 if kind == "tensor(float16)" else np.float32
        self._outputs = ["logits"]
        if self.form.past:
            self._outputs += [f"present_{what}_{n}" for n in range(size.layers) for what in ("key", "value")]

    def make_cache(self, slots: int) -> OnnxCache:
        """Empty slots."""
        return OnnxCache([[] for _ in range(slots)], [[] for _ in range(slots)])

    def copy_slot(self, cache: OnnxCache, source: int, target: int, tokens: int) -> None:
        """See :meth:`cpm_gen.networks.interface.Network.copy_slot`. Only references: what a slot holds is replaced, never changed."""
        cache.ids[target], cache.states[target] = cache.ids[source], cache.states[source]

    def profile(self) -> dict[str, float]:
        """Empty: onnxruntime is not asked for its parts."""
        return {}

    def next_logits(self, segments: Sequence[Segment], cache: OnnxCache | None) -> Tensor:
        """Logits ``[wanted, vocabulary]`` (see :meth:`cpm_gen.networks.interface.Network.next_logits`)."""
        run = segments
        if not self.form.past:  # a context that is not asked about needs no pass of the network
            for segment in segments:
                self._remember(segment, cache)
            run = [segment for segment in segments if segment.logits]
        rows = [rows[-1:] for segment, rows in zip(run, self.logits(run, cache), strict=True) if segment.logits]
        return torch.cat(rows) if rows else torch.empty(0, self.size.vocabulary)

    def score(
        self, segment: Segment, targets: Sequence[int], cache: OnnxCache | None, top: TopCollector | None = None
    ) -> Tensor:
        """Natural log-probabilities ``[targets]`` (see :meth:`cpm_gen.networks.interface.Network.score`)."""
        (logits,) = self.logits([segment], cache)
        return score_targets(logits[len(logits) - len(targets) :], targets, lambda rows: rows, top)

    def logits(self, segments: Sequence[Segment], cache: OnnxCache | None) -> list[Tensor]:
        """Logits ``[tokens, vocabulary]``, float32, of all tokens of each segment."""
        if self.form.past:
            return [self._extend(segment, cache) for segment in segments]
        contexts = [self._remember(segment, cache) for segment in segments]
        batch = self.form.batch or max(1, len(contexts))
        parts = [self._whole(contexts[at : at + batch]) for at in range(0, len(contexts), batch)]
        rows = [row for part in parts for row in part]
        return [row[s.start : s.start + len(s.ids)] for s, row in zip(segments, rows, strict=True)]

    def _remember(self, segment: Segment, cache: OnnxCache | None) -> list[int]:
        """The segment's context, which its slot holds from now on."""
        if segment.slot is None:
            return list(segment.ids)
        assert cache is not None
        context = [*cache.ids[segment.slot][: segment.start], *segment.ids]
        cache.ids[segment.slot] = context
        return context

    def _whole(self, contexts: Sequence[Sequence[int]]) -> Tensor:
        """Logits ``[contexts, length, vocabulary]``. Contexts are padded at their ends, which causal attention does not see."""
        length = self.form.length or max(map(len, contexts))
        ids = np.zeros((self.form.batch or len(contexts), length), np.int64)
        for row, context in zip(ids, contexts, strict=False):
            row[: len(context)] = context
        given: dict[str, Array] = {"input_ids": ids}
        if self.form.length is None:
            given |= self._places(len(ids), 0, length)
        return self._run(given)[0][: len(contexts)]

    def _extend(self, segment: Segment, cache: OnnxCache | None) -> Tensor:
        """Logits ``[tokens, vocabulary]`` of a segment after its slot's first ``start`` tokens."""
        state: list[Array] = []
        if segment.slot is not None and segment.start:
            assert cache is not None
            state = [part[:, :, : segment.start] for part in cache.states[segment.slot]]
        if not state:
            empty = np.zeros((1, self.size.heads, 0, self.size.hidden // self.size.heads), self._dtype)
            state = [empty] * (2 * self.size.layers)
        given = {"input_ids": np.array([segment.ids], np.int64), **self._places(1, segment.start, len(segment.ids))}
        for layer in range(self.size.layers):
            given[f"past_key_{layer}"], given[f"past_value_{layer}"] = state[2 * layer : 2 * layer + 2]
        logits, *states = self._run(given)
        if segment.slot is not None:
            assert cache is not None
            cache.states[segment.slot] = [part.numpy() for part in states]
        return logits[0]

    def _places(self, batch: int, past: int, tokens: int) -> dict[str, Array]:
        """Positions and the causal bias of tokens after ``past`` others."""
        positions = np.arange(past, past + tokens)
        seen = np.arange(past + tokens)[None] <= positions[:, None]
        bias = np.where(seen, 0.0, MASKED).astype(self._dtype)
        return {
            "position_ids": np.ascontiguousarray(np.broadcast_to(positions, (batch, tokens))),
            "attention_bias": np.ascontiguousarray(np.broadcast_to(bias, (batch, 1, *bias.shape))),
        }

    def _run(self, given: dict[str, Array]) -> list[Tensor]:
        logits, *states = self._session.run(self._outputs, given)
        return [torch.from_numpy(logits).float(), *map(torch.from_numpy, states)]


def load_network(
    checkpoint: Checkpoint,
    size: ModelSize,
    group: TensorParallel,
    options: ModelOptions,
    device: torch.device,
    threads: int,
) -> OnnxModel:
    """See :class:`cpm_gen.networks.interface.Backend`."""
    return OnnxModel(checkpoint.folder, size, group, threads)
