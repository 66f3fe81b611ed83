"""A network loaded over its ranks: started together, ended together."""

from __future__ import annotations

import contextlib
import hashlib
import os
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cpm_gen.checkpoints.attention_heads import resolve_heads
from cpm_gen.checkpoints.checkpoint import verify_replicas
from cpm_gen.checkpoints.formats.megatron import open_checkpoint
from cpm_gen.checkpoints.locate import model_folder
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import ModelOptions
from cpm_gen.engine.model_runner import Runner
from cpm_gen.errors import ConfigError, CpmGenError, RankError
from cpm_gen.networks.select import captures_graphs, computes_natively, fallback_note
from cpm_gen.parallel.devices import pick_device, useful_threads
from cpm_gen.parallel.group import TensorParallel
from cpm_gen.parallel.launchers import join_launched, launched
from cpm_gen.parallel.local_ranks import Ranks, join_local
from cpm_gen.runtime.build import make_runner_from
from cpm_gen.runtime.plan import choose_degree, make_window
from cpm_gen.runtime.rank_worker import Assignment

_SAMPLES, _SAMPLED = 64, 4096  # how many pieces of a file, and of how many bytes, stand for it


def digest(shards: Iterable[Path]) -> str:
    """What tells a checkpoint's weights from others of the same shape: a hash of pieces from all over its files."""
    found = hashlib.sha256()
    for path in shards:
        data = np.memmap(path, np.uint8, "r")
        found.update(len(data).to_bytes(8, "little"))
        for at in range(0, len(data), max(_SAMPLED, len(data) // _SAMPLES)):
            found.update(data[at : at + _SAMPLED].tobytes())
    return found.hexdigest()[:16]


class Loaded:
    """This process's part of a loaded network, the ranks it started, and its CPU threads.

    size, window: of the network; notes: what the person who loads it should know; slots_made: windows of KV cache.
    """

    def __init__(self, options: ModelOptions, on_rank_death: Callable[[str], None] | None = None) -> None:
        self.options = options
        self._ranks: Ranks | None = None
        self._group = TensorParallel()
        self._finish: weakref.finalize[Any, Any] = weakref.finalize(self, lambda: None)
        self._closed = False
        self.notes: list[str] = []  # what the person who loads it should know
        checkpoint = open_checkpoint(model_folder(options.model))
        if options.hidden not in (None, checkpoint.hidden):
            raise ConfigError(
                f"{checkpoint.folder}: hidden size is {checkpoint.hidden}, the settings describe a network of {options.hidden}"
            )
        if options.threads is not None and options.threads < 1:
            raise ConfigError(f"threads must be at least 1, not {options.threads}")
        self._shards = [shard.path for shard in checkpoint.shards]
        heads = resolve_heads(checkpoint, options.heads)
        self.size: ModelSize = checkpoint.size(heads)
        self.window = make_window(options, checkpoint.positions)
        if options.batch < 1:
            raise ConfigError(f"batch must be at least 1, not {options.batch}")
        launch = launched()
        degree = choose_degree(options, checkpoint, heads, launch)
        device = pick_device(options.device, launch.local_rank if launch else 0)
        native = computes_natively(options, device)  # a wish that cannot be granted is an error before ranks start
        captures_graphs(options, device, degree)
        slots = _slots(options, device)
        verify_replicas(checkpoint)
        local = launch.local_size if launch else degree
        share = max(1, (options.threads or useful_threads(self.size.hidden, native=native)) // local)
        self._threads = (torch.get_num_threads(), share)
        torch.set_num_threads(share)  # torch has one number for the process; close() puts it back
        try:
            if launch:
                self._group = join_launched(launch, device)
            elif degree > 1:
                self._ranks = Ranks(
                    degree,
                    lambda rank, folder, ready: Assignment(
                        rank, degree, folder, share, options, heads, slots, os.getpid(), ready
                    ),
                    on_rank_death,
                )
                self._group = join_local(0, degree, device, self._ranks.folder)
            runner = make_runner_from(checkpoint, heads, options, slots, self._group, device)
        except BaseException as error:
            explained = self._explain(error) if isinstance(error, RuntimeError) else error
            self.abandon()
            if explained is error:
                raise
            raise explained from error
        self._runner = runner
        self._finish = weakref.finalize(self, _end_group, runner, self._group, self._ranks)
        if checkpoint.notes:
            dropped = ", ".join(checkpoint.notes)
            self.notes.append(f"the checkpoint names what is not loaded, dropped unseen: {dropped}")
        if slower := fallback_note(options, device):
            self.notes.append(slower)
        self.slots_made = slots

    @property
    def rank(self) -> int:
        """This process's rank; only rank 0 writes, the others :meth:`follow`."""
        return self._group.rank

    def digest(self) -> str:
        """Of its weights, as they lie in their files now (see :func:`digest`)."""
        return digest(self._shards)

    def follow(self) -> None:
        """On ranks other than 0: work for rank 0 until it closes."""
        try:
            self._runner.follow()
        except RuntimeError as error:
            raise self._explain(error) from error

    def _explain(self, error: RuntimeError) -> CpmGenError | RuntimeError:
        """Why a step failed: a dead rank, if there is one, otherwise the error itself."""
        failure = self._ranks.failure(wait=3.0) if self._ranks else None
        if failure is None and (self._group.size == 1 or "onnection" not in str(error)):
            return error
        self.abandon()
        return RankError(failure or f"rank {self._group.rank} lost another rank, which says why above")

    def _check_open(self) -> None:
        if self._closed:
            raise CpmGenError("this model was closed; load it again")
        if self.rank:
            raise CpmGenError(f"this is rank {self.rank}, which follows rank 0; only that one writes")

    def close(self) -> None:
        """End the other ranks and leave the group; calling it twice does no harm. Happens by itself when the program ends."""
        if not self._closed:
            self._closed = True
            self._finish()
            self._restore_threads()

    def abandon(self) -> None:
        """Leave without a word to the other ranks, which end: one is dead or stuck, or they never came to listen."""
        self._closed = True
        self._finish.detach()
        self._restore_threads()
        if self._ranks:
            self._ranks.close(grace=0.0)
        self._group.close()

    def kill_ranks(self) -> bool:
        """Kill the other ranks, where this process started any; a step that waits for them then fails. From any thread."""
        if self._ranks:
            self._ranks.kill()
        return self._ranks is not None

    def _restore_threads(self) -> None:
        before, ours = self._threads
        if torch.get_num_threads() == ours:
            torch.set_num_threads(before)


def _slots(options: ModelOptions, device: torch.device) -> int:
    """Windows of KV cache: one for each text, and for next windows one more, or half of one where unused memory is taken too."""
    if options.decoder != "cached":
        return 0
    return 2 * options.batch if device.type == "cpu" else options.batch + -(-options.batch // 2)


def _end_group(runner: Runner, group: TensorParallel, ranks: Ranks | None) -> None:
    with contextlib.suppress(RuntimeError, RankError):
        if group.rank == 0:
            runner.close()
    group.close()
    if ranks:
        ranks.close()
