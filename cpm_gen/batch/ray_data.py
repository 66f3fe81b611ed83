"""The lines of a batch over a Ray cluster, by Ray Data: a pool of actors, each with a model of its own.

Ray reads the lines from its object store, so all of them are held there; what they give comes back in blocks as the texts are complete.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import queue
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # a thread that still reads must not start a second cluster
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import ray.data

from cpm_gen.batch.lines import Line, Result
from cpm_gen.batch.replicas import Assignment
from cpm_gen.batch.writer import Writer
from cpm_gen.checkpoints.locate import model_folder, open_checkpoint
from cpm_gen.config.arguments import one_line
from cpm_gen.config.options import ModelOptions
from cpm_gen.config.resolve import Settings
from cpm_gen.errors import ConfigError, ReplicaError
from cpm_gen.runtime.plan import Machine, plan_worker
from cpm_gen.runtime.text_engine import TextEngine

_WAIT = 0.2  # seconds for a result before the caller is asked whether to stop
_BATCHES = 8  # times the engine's batch: lines of a task, at whose end the batch runs empty


class RayWriter:
    """An actor: writes the lines of a block side by side."""

    def __init__(self, assignment: str) -> None:
        settings = Assignment.from_json(assignment).settings
        self._writer = Writer(TextEngine.load(settings.model), settings)

    def __call__(self, block: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, list[str]]]:
        """Results as JSON for lines as JSON."""
        lines = deque(Line(*json.loads(line)) for line in block["line"])
        writer = self._writer
        while lines or writer.busy:
            while lines and writer.room:
                writer.give(lines.popleft())
            if found := writer.results():
                yield {"result": [json.dumps(result) for result in found]}


class RayData:
    """Implements :class:`cpm_gen.batch.run.Workers`: takes all lines first, then writes them on the cluster.

    workers: number of actors; None: as many as the cluster has GPUs or CPUs for. notes: see :class:`cpm_gen.runtime.plan.LoadPlan`.
    Raises ConfigError and CheckpointError for a model that cannot be loaded, ReplicaError where the cluster cannot be reached.
    """

    def __init__(self, settings: Settings, workers: int | None) -> None:
        open_checkpoint(model_folder(settings.model.model))  # a mistake in it is said before a cluster is started
        _connect()
        try:
            options = self._place(settings.model, workers)
        except BaseException:
            ray.shutdown()
            raise
        self._assignment = Assignment(0, 1, 0, dataclasses.replace(settings, model=options)).to_json()
        self._block = _BATCHES * settings.model.batch
        self._lines: list[str] = []
        self._given: set[int] = set()
        self._results: queue.SimpleQueue[Result | Exception | None] | None = None

    def _place(self, options: ModelOptions, workers: int | None) -> ModelOptions:
        """The options of a worker. Decides what it takes of the cluster; raises ConfigError if there is no room."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        plan = plan_worker(options, Machine.detect(), max((int(node.get("GPU", 0)) for node in nodes), default=0))
        self.notes = list(plan.notes)
        threads = options.threads or 1
        if plan.device.type == "cuda":
            kind, needed = "GPU", plan.degree
            options = dataclasses.replace(options, device=options.device.partition(":")[0])  # Ray chooses which GPUs
        else:
            kind, needed = "CPU", threads
            options = dataclasses.replace(options, threads=threads, device="cpu")
        self._resources = {f"num_{kind.lower()}s": needed}
        room = sum(int(node.get(kind, 0) // needed) for node in nodes)  # a worker is of one node
        if room < (workers or 1):
            raise ConfigError(f"the Ray cluster has room for {room} workers of {needed} {kind}s, not {workers or 1}")
        self._workers = workers or room
        return options

    @property
    def room(self) -> bool:
        """Whether it has not begun yet."""
        return self._results is None

    @property
    def busy(self) -> bool:
        """Whether there are results to come."""
        return bool(self._given)

    def give(self, line: Line) -> None:
        """Take a line."""
        self._lines.append(json.dumps([line.number, line.id, line.content]))
        self._given.add(line.number)

    def results(self) -> list[Result]:
        """Begin, or wait a moment for results; raises ReplicaError if a worker failed."""
        if self._results is None:
            self._results = queue.SimpleQueue()
            threading.Thread(target=self._write, args=[self._results], daemon=True, name="cpm-gen ray").start()
        try:
            result = self._results.get(timeout=_WAIT)
        except queue.Empty:
            return []
        if isinstance(result, Exception):
            raise ReplicaError(f"Ray: {one_line(_cause(result))}") from None
        if result is None:
            raise ReplicaError(f"Ray ended without {len(self._given):,} results")
        if result[0] not in self._given:  # Ray repeated the block of a worker that died
            return []
        self._given.remove(result[0])
        return [result]

    def close(self) -> None:
        """Leave the cluster, or end the one that was started for this run."""
        ray.shutdown()

    def _write(self, results: queue.SimpleQueue[Result | Exception | None]) -> None:
        """Run the dataset, in a thread of its own: its iterator waits for workers."""
        try:
            rows = max(1, min(self._block, -(-len(self._lines) // self._workers)))
            lines, self._lines = [{"line": line} for line in self._lines], []
            data = ray.data.from_items(lines, override_num_blocks=-(-len(lines) // rows)).map_batches(
                RayWriter,
                fn_constructor_args=(self._assignment,),
                batch_size=None,
                compute=ray.data.ActorPoolStrategy(size=self._workers),
                **self._resources,
            )
            for row in data.iter_rows():
                number, result = json.loads(row["result"])
                results.put((number, result))
            results.put(None)
        except Exception as error:  # of any kind: the thread that waits reports it
            results.put(error)


def _connect() -> None:
    """Join the cluster of RAY_ADDRESS or of this machine, or start one here."""
    warnings.filterwarnings("ignore", module="ray")
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise ReplicaError(f"Ray cannot be reached or started: {one_line(error)}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # results come back as they are complete
    context.execution_options.preserve_order = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _cause(error: BaseException) -> BaseException:
    """The error of a worker under those of Ray, which hold its traceback."""
    inner = getattr(error, "cause", None) or error.__cause__
    return _cause(inner) if isinstance(inner, BaseException) else error
