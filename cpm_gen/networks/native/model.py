"""The network on the native CPU kernels; the weights are packed once, when they are loaded.

The numbers of a row have the same bits whatever else the step runs and however a context is cut into steps
(``native/src/gemm.h``), so cached decoding equals recomputing exactly, in every format.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.config.model_sizes import CPM_1, ModelSize, NetworkVariant
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import ConfigError
from cpm_gen.networks.interface import Segment, score_targets
from cpm_gen.networks.native import library
from cpm_gen.networks.native.logit_kernels import NativeLogitKernels
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.sampling.logprobs import TopCollector

_TENSORS = (
    "word_embeddings.weight",
    "position_embeddings.weight",
    "transformer.final_layernorm.weight",
    "transformer.final_layernorm.bias",
    "lm_head.weight",
    "input_layernorm.weight",
    "input_layernorm.bias",
    "attention.query_key_value.weight",
    "attention.query_key_value.bias",
    "attention.dense.weight",
    "attention.dense.bias",
    "post_attention_layernorm.weight",
    "post_attention_layernorm.bias",
    "mlp.dense_h_to_4h.weight",
    "mlp.dense_h_to_4h.bias",
    "mlp.dense_4h_to_h.weight",
    "mlp.dense_4h_to_h.bias",
)  # in the order of cpm_tensor
_PACKED = 1 << 20  # elements that are packed at a time, or a tile for each thread if that is more
_TILE = 64  # rows that one thread packs (native/src/ops.h)
_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class NativeCache:
    """``slots`` windows of keys and values of this rank's heads, in the kernels' layout (``native/src/ops.h``).

    bytes: the memory that it takes.
    """

    def __init__(self, handle: int, slots: int) -> None:
        native = library.load_library()
        self.handle = handle
        self.slots = slots
        self.bytes: int = native.cpm_cache_bytes(handle)
        self.release = weakref.finalize(self, _destroy, native.cpm_cache_destroy, handle, os.getpid())


class NativeModel:
    """A rank's part of the network. Raises ConfigError for unknown kernels, MemoryError if memory does not suffice.

    form: format of the matrices, "float32", "bfloat16" or "int8". kv_form: format of keys and values; None: bfloat16 if ``form``
    is int8, otherwise ``form``. kernels: name of the instruction set to use; None: the best one of this machine.

    Matrices in int8 have one scale for each output; activations are then 8 bits with a scale for each 64 values, or with AMX
    16 bits. Keys and values in int8 have one scale for each position's key and value of a head.
    """

    samples = False

    def __init__(
        self,
        size: ModelSize,
        group: TensorParallel,
        variant: NetworkVariant = CPM_1,
        *,
        form: str,
        kv_form: str | None = None,
        threads: int,
        kernels: str | None = None,
    ) -> None:
        self.size = size
        self.group = group
        self.form = form
        self._threads = threads
        self._library = library.load_library()
        if threads > library.MAX_THREADS:
            raise ConfigError(f"threads: the native kernels use at most {library.MAX_THREADS} a rank, not {threads}")
        self._failure: BaseException | None = None
        self._reduce = library.AllReduce(self._all_reduce)  # a reference must stay while the library may call it
        ranks = group.size
        self._rows = -(
            -size.vocabulary // ranks
        )  # of the vocabulary on every rank; the last may hold zero rows at its end
        whole_machine = threads * ranks >= len(_allowed_cpus())
        sizes = library.Sizes(
            layers=size.layers,
            hidden=size.hidden,
            heads=size.heads // ranks,
            head_dim=size.hidden // size.heads,
            inner=variant.inner_size(size.hidden) // ranks,
            vocabulary=self._rows,
            first_row=self._rows * group.rank,
            positions=size.positions,
            ranks=ranks,
            format=library.FORMATS[form],
            kv_format=library.FORMATS[kv_form or ("bfloat16" if form == "int8" else form)],
            threads=threads,
            # threads are pinned only if they take all cores; otherwise the scheduler of the system places them better
            first_cpu=threads * group.rank if whole_machine else -1,
            epsilon=variant.epsilon,
            gelu=library.GELU[variant.gelu],
            untied=not variant.tied_head,
            scale_by_layer=variant.scale_by_layer,
        )
        self._handle = self._library.cpm_create(ctypes.byref(sizes), kernels.encode() if kernels else None)
        if not self._handle:
            if kernels and kernels not in library.kernels():
                raise ConfigError(f"no kernels {kernels!r} on this machine; there are {', '.join(library.kernels())}")
            raise MemoryError("no memory for the network")
        self.release = weakref.finalize(self, _destroy, self._library.cpm_destroy, self._handle, os.getpid())
        self.logit_kernels = NativeLogitKernels(self._handle)
        name: bytes = self._library.cpm_model_kernels(self._handle)
        self.kernels = name.decode()

    def load(self, checkpoint: Checkpoint) -> None:
        """Pack this rank's slices some rows at a time; no more of the files than those rows is in memory beside the packed weights.

        Of a matrix that its file holds transposed every row lies in all its pages: these stay until the rank's part is packed, so
        that they are not read again for every few rows. Rows that pad the vocabulary are not packed and stay zero.
        """
        rank, degree = self.group.rank, self.group.size
        for name, tensor in checkpoint.tensors.items():
            parts = list(tensor.slice_parts(rank, degree))
            if len(parts) > 1 and (len(tensor.shape) == 1 or tensor.cut.dim == 1):  # parts that are not whole rows
                values = torch.empty(checkpoint.slice_shape(name, degree), dtype=tensor.dtype)
                checkpoint.copy_slice(name, rank, degree, values)
                self._pack(name, values)
                continue
            for part in parts:
                view = part.view()
                rows = max(_TILE * self._threads, _PACKED // view.shape[1]) if view.dim() == 2 else len(view)
                for at in range(0, len(view), rows):
                    self._pack(name, view[at : at + rows], part.slice_start + at)
                    if view.stride(-1) == 1:
                        part.stored.release()
                part.stored.release()

    def _pack(self, name: str, tensor: Tensor, first: int = 0) -> None:
        """Pack a vector, or rows of a matrix that become those from ``first`` on."""
        layer, part = tensor_table.split_layer(name)
        rows, columns = tensor.shape if tensor.dim() == 2 else (1, len(tensor))
        if tensor.stride(-1) != 1:
            tensor = tensor.contiguous()
        status = self._library.cpm_pack(
            self._handle,
            _TENSORS.index(part),
            layer or 0,
            tensor.data_ptr(),
            _DTYPES[tensor.dtype],
            first if tensor.dim() == 2 else 0,
            rows,
            columns,
            tensor.stride(0) if tensor.dim() == 2 else columns,
        )
        assert status == 0, (name, tuple(tensor.shape), status)

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed matrices: what a decode step reads in addition to keys and values."""
        size: int = self._library.cpm_weight_bytes(self._handle)
        return size

    def make_cache(self, slots: int) -> NativeCache:
        """A cache of ``slots`` full windows for this rank's heads."""
        handle = self._library.cpm_cache_create(self._handle, slots)
        if not handle:
            raise MemoryError(f"no memory for {slots} windows of keys and values")
        return NativeCache(handle, slots)

    def copy_slot(self, cache: NativeCache, source: int, target: int, tokens: int) -> None:
        """See :meth:`cpm_gen.networks.interface.Network.copy_slot`."""
        self._library.cpm_cache_copy(self._handle, cache.handle, source, target, tokens)

    def next_logits(self, segments: Sequence[Segment], cache: NativeCache | None) -> Tensor:
        """Logits ``[wanted, vocabulary]`` (fp32) after the last token of each segment that wants them, on every rank."""
        return self._head(self._hidden(segments, [int(s.logits) for s in segments], cache))

    def score(
        self, segment: Segment, targets: Sequence[int], cache: NativeCache | None, top: TopCollector | None = None
    ) -> Tensor:
        """Natural log-probabilities ``[targets]``, float32 (see :meth:`cpm_gen.networks.interface.Network.score`)."""
        return score_targets(self._hidden([segment], [len(targets)], cache), targets, self._head, top)

    def profile(self) -> dict[str, float]:
        """Seconds spent in the kernels since loading, by purpose; waiting for other ranks is not counted."""
        seconds = (ctypes.c_double * 5)()
        self._library.cpm_profile(self._handle, ctypes.byref(seconds))
        weights, attention, head, _, other = seconds
        return {"weights": weights, "attention": attention, "head": head, "norms and embedding": other}

    def _hidden(
        self, segments: Sequence[Segment], wanted: Sequence[int], cache: NativeCache | None
    ) -> np.ndarray[Any, Any]:
        """The last ``wanted`` rows of each segment after the last norm: ``[sum(wanted), hidden]``, float32."""
        described = (library.CSegment * len(segments))()
        for at, s in enumerate(segments):
            described[at] = library.CSegment(len(s.ids), s.start, -1 if s.slot is None else s.slot, wanted[at])
        ids = np.array([i for s in segments for i in s.ids], dtype=np.int32)
        hidden = np.empty((sum(wanted), self.size.hidden), dtype=np.float32)
        self._check(
            self._library.cpm_step(
                self._handle,
                cache.handle if cache else None,
                described,
                len(segments),
                ids.ctypes.data,
                self._reduce,
                hidden.ctypes.data,
            )
        )
        return hidden

    def _head(self, hidden: np.ndarray[Any, Any]) -> Tensor:
        logits = torch.empty(len(hidden), self._rows)
        if len(hidden):
            self._check(self._library.cpm_head(self._handle, hidden.ctypes.data, len(hidden), logits.data_ptr()))
        gathered = self.group.all_gather(logits)
        vocabulary = self.size.vocabulary
        return gathered if gathered.shape[1] == vocabulary else gathered[:, :vocabulary].contiguous()

    def _all_reduce(self, values: Any, count: int) -> int:
        """Called by the library on the calling thread between two phases of a step; sums ``values`` over the ranks in place."""
        try:
            flat = np.ctypeslib.as_array(values, (count,))
            self.group.all_reduce(torch.from_numpy(flat))
        except BaseException as error:
            self._failure = error
            return 1
        return 0

    def _check(self, status: int) -> None:
        if status == library.ABORTED:
            failure, self._failure = self._failure, None
            assert failure is not None
            raise failure
        if status == library.NO_MEMORY:
            raise MemoryError("no memory for this step's activations")


def _destroy(destroy: Callable[[int], None], handle: int, process: int) -> None:
    """Free what the library holds; not in a forked child, which would wait for threads that only the parent has."""
    if os.getpid() == process:
        destroy(handle)


def _allowed_cpus() -> Sequence[int]:
    if hasattr(os, "sched_getaffinity"):
        return list(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def load_network(
    checkpoint: Checkpoint,
    size: ModelSize,
    group: TensorParallel,
    options: ModelOptions,
    device: torch.device,
    threads: int,
) -> NativeModel:
    """See :class:`cpm_gen.networks.interface.Backend`; ``device`` is always the CPU."""
    form = "int8" if options.quantize == "int8" else options.dtype
    kv_form = None if options.kv_cache == "auto" else options.kv_cache
    model = NativeModel(size, group, checkpoint.variant, form=form, kv_form=kv_form, threads=threads)
    model.load(checkpoint)
    return model
