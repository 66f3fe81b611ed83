"""What a load will do, decided before a process starts or a tensor is read.

:func:`plan_load` is pure: it depends on the options, on the headers of the checkpoint and on a :class:`Machine`. Every mistake
that a person can make in the options is raised here.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from dataclasses import dataclass

import torch

from cpm_gen.checkpoints.attention_heads import resolve_heads
from cpm_gen.checkpoints.checkpoint import Checkpoint
from cpm_gen.checkpoints.locate import model_folder, open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.config.options import ModelOptions
from cpm_gen.engine.model_runner import SCORINGS
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError
from cpm_gen.networks.native import library
from cpm_gen.networks.select import BackendChoice, BackendName, choose_backend
from cpm_gen.parallel.devices import pick_device, useful_threads
from cpm_gen.parallel.launchers import Launch, launched


@dataclass(frozen=True)
class Machine:
    """What a load depends on besides options and checkpoint.

    launch: this process's place among ranks that torchrun or deepspeed started; None without a launcher. gpus, cpus: their
    numbers. native_missing: why the native CPU kernels cannot be used; None if they can. triton: whether Triton is installed.
    """

    launch: Launch | None = None
    gpus: int = 0
    cpus: int = 1
    native_missing: str | None = None
    triton: bool = False

    @staticmethod
    def detect() -> Machine:
        """This machine and process; raises ConfigError if a launcher's environment variables are incomplete."""
        return Machine(
            launch=launched(),
            gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,
            cpus=os.cpu_count() or 1,
            native_missing=library.missing(),
            triton=importlib.util.find_spec("triton") is not None,
        )


@dataclass(frozen=True)
class RankPlan:
    """What one rank builds; every field is plain data, so that it can be sent to a child process."""

    options: ModelOptions
    heads: int
    backend: BackendName
    device: str
    threads: int
    slots: int
    scoring_slots: int


@dataclass(frozen=True)
class LoadPlan:
    """What a load will do.

    checkpoint: opened; its headers are read. size, window: of the network. degree: number of ranks. devices: of the ranks that
    this process is responsible for, its own first. backend: with the reason. threads: CPU threads of each rank. slots: windows
    of the KV cache for the scheduler, 0 without a cache. scoring_slots: further ones for scoring. notes: what the person who
    loads the model should know.
    """

    options: ModelOptions
    checkpoint: Checkpoint
    size: ModelSize
    window: Window
    launch: Launch | None
    degree: int
    devices: tuple[torch.device, ...]
    backend: BackendChoice
    threads: int
    slots: int
    scoring_slots: int
    notes: tuple[str, ...]

    @property
    def rank(self) -> int:
        """This process's rank."""
        return self.launch.rank if self.launch else 0

    @property
    def device(self) -> torch.device:
        """This process's device."""
        return self.devices[0]

    def for_rank(self, rank: int) -> RankPlan:
        """What a rank builds: this process's, or one that this process starts."""
        device = self.device if self.launch else self.devices[rank]
        return RankPlan(
            self.options,
            self.size.heads,
            self.backend.name,
            str(device),
            self.threads,
            self.slots,
            self.scoring_slots,
        )


def plan_load(options: ModelOptions, machine: Machine) -> LoadPlan:
    """Decide everything about a load. Opens the checkpoint, but reads no tensor.

    Raises CheckpointError for a checkpoint that is missing, damaged or cannot be cut as asked, and ConfigError for options that
    are impossible or that this machine cannot satisfy.
    """
    checkpoint = open_checkpoint(model_folder(options.model))
    if options.hidden not in (None, checkpoint.hidden):
        raise ConfigError(
            f"{checkpoint.folder}: hidden size is {checkpoint.hidden}, the settings describe a network of {options.hidden}"
        )
    size = checkpoint.size(resolve_heads(checkpoint, options.heads))
    window = make_window(options, size.positions)
    launch = machine.launch
    degree = choose_degree(options, checkpoint, size.heads, launch)
    local_ranks = (launch.local_rank,) if launch else range(degree)
    device = "cpu" if checkpoint.is_onnx and options.device == "auto" else options.device
    devices = tuple(pick_device(device, rank, machine.gpus) for rank in local_ranks)
    backend = choose_backend(
        options,
        devices[0],
        degree,
        native_missing=machine.native_missing,
        triton=machine.triton,
        onnx=checkpoint.is_onnx,
    )
    useful = useful_threads(size.hidden, native=backend.name == "native", cpus=machine.cpus)
    threads = max(1, (options.threads or useful) // (launch.local_size if launch else degree))
    slots = _cache_slots(options, devices[0])
    return LoadPlan(
        options=options,
        checkpoint=checkpoint,
        size=size,
        window=window,
        launch=launch,
        degree=degree,
        devices=devices,
        backend=backend,
        threads=threads,
        slots=slots,
        scoring_slots=SCORINGS
        if slots and devices[0].type == "cpu"
        else 0,  # a GPU scores a whole window in a step's time
        notes=_notes(checkpoint, backend),
    )


def plan_worker(options: ModelOptions, machine: Machine, most: float) -> LoadPlan:
    """What a worker in a cluster will do, whose ranks run on one node. ``most``: GPUs of the node that has most of them.

    The machine is the one that plans, whose own GPUs do not count. Raises what :func:`plan_load` raises, and ConfigError if no node
    has a GPU for each rank.
    """
    gpus = sys.maxsize if most or options.device != "auto" else 0  # a lack of them is that of the cluster, below
    plan = plan_load(options, dataclasses.replace(machine, gpus=gpus))
    if plan.device.type == "cuda" and plan.degree > most:
        raise ConfigError(
            f"device {options.device}: GPUs needed on one node: {plan.degree}; most on a node of the Ray cluster: {most}"
        )
    return plan


def make_window(options: ModelOptions, positions: int) -> Window:
    """The window that the options describe over a network with that many positions; raises ConfigError."""
    limit = positions - 1 if options.window_limit is None else options.window_limit
    if not 1 <= limit <= positions:
        raise ConfigError(f"window limit must be from 1 to {positions}, the network's positions, not {limit}")
    room = limit - options.window_keep
    hop = max(1, min(limit // 2, room)) if options.window_hop is None else options.window_hop
    return Window(limit, hop, options.window_boundary, options.window_keep)


def choose_degree(options: ModelOptions, checkpoint: Checkpoint, heads: int, launch: Launch | None) -> int:
    """The number of ranks: as asked, as launched, or as the checkpoint was saved.

    Raises ConfigError if a launcher started another number, CheckpointError if the network cannot be cut so.
    """
    asked = options.tensor_parallel
    if asked == "auto":
        asked = launch.size if launch else checkpoint.degree
    if launch and asked not in (1, launch.size):
        raise ConfigError(f"--tensor-parallel {asked} under a launcher that started {launch.size} ranks")
    degree = launch.size if launch else asked
    checkpoint.check_degree(degree, heads)
    return degree


def _cache_slots(options: ModelOptions, device: torch.device) -> int:
    """Windows of the KV cache: one for each sequence, and for next windows one more on a CPU, half of one on a GPU.

    Pages of the CPU's memory are taken only when they are used; a GPU's memory is taken at once.
    """
    if options.decoder != "cached":
        return 0
    return 2 * options.batch if device.type == "cpu" else options.batch + -(-options.batch // 2)


def _notes(checkpoint: Checkpoint, backend: BackendChoice) -> tuple[str, ...]:
    dropped = ", ".join(checkpoint.notes)
    notes = [f"the checkpoint names what is not loaded, dropped unseen: {dropped}"] if dropped else []
    return (*notes, backend.note) if backend.note else tuple(notes)
