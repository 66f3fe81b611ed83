"""Several processes that write the lines of a batch, each with a model of its own.

Protocol: a child reads lines of JSON on its standard input, first an :class:`Assignment`, then ``[number, id, content]`` for each line of
the batch, and answers on its standard output ``["ready", notes]``, then ``[number, result]``, or ``["failed", message, exit status]``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cpm_gen.batch.lines import Line, Result
from cpm_gen.config.options import ModelOptions, SamplingParams, TextOptions
from cpm_gen.config.resolve import Settings
from cpm_gen.errors import ReplicaError

# -P and a path appended at the end: neither the current folder nor the package's comes before the standard library
_START = "import sys; sys.path.append(sys.argv[1]); from cpm_gen.batch.replica_worker import main; sys.exit(main())"
_WAIT = 0.2  # seconds for a result before the caller is asked whether to stop
_GRACE = 5.0  # seconds for an idle child to end by itself


@dataclass(frozen=True)
class Assignment:
    """What a child has to know. place, count: its number among the replicas, from 0 on, and how many there are. parent: its process id."""

    place: int
    count: int
    parent: int
    settings: Settings

    def to_json(self) -> str:
        """One line of JSON."""
        settings = self.settings
        groups: tuple[Any, ...] = (settings.model, settings.sampling, settings.text)
        values = [dataclasses.asdict(group) for group in groups]
        return json.dumps([self.place, self.count, self.parent, values, dict(settings.sources)])

    @staticmethod
    def from_json(line: str) -> Assignment:
        """The inverse of :meth:`to_json`."""
        place, count, parent, (model, sampling, text), sources = json.loads(line)
        groups = ModelOptions(**model), SamplingParams(**sampling), TextOptions(**text)
        return Assignment(place, count, parent, Settings(*groups, sources=sources))


@dataclass
class _Child:
    """A replica. name: for messages. log: its standard error. reader: queues its answers. given: numbers of the lines that it has."""

    name: str
    process: subprocess.Popen[bytes]
    log: BinaryIO
    reader: threading.Thread | None = None
    given: set[int] = field(default_factory=set)

    def send(self, line: str) -> None:
        """Send a line; a child that has ended is noticed where its answers are read."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line.encode() + b"\n")
            self.process.stdin.flush()

    def failure(self) -> ReplicaError:
        """Why it ended, and the last line that it wrote."""
        status = self.process.wait()
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        self.log.seek(0)
        lines = [line for line in self.log.read().decode(errors="replace").splitlines() if line.strip()]
        return ReplicaError(f"{self.name} {how}" + (f": {lines[-1].strip()}" if lines else ""))


class Replicas:
    """Implements :class:`cpm_gen.batch.run.Workers` with ``count`` child processes.

    notes: what the first one says of its model. Raises ReplicaError if one cannot start, with what it says is wrong.
    """

    def __init__(self, settings: Settings, count: int) -> None:
        batch = settings.model.batch
        self._most = batch + max(1, batch // 2)  # some lines more than places: a place that gets free is taken at once
        self._answers: queue.SimpleQueue[tuple[_Child, list[Any] | None]] = queue.SimpleQueue()
        self._children: list[_Child] = []
        self.notes: list[str] = []
        try:
            for place in range(count):
                self._start(Assignment(place, count, os.getpid(), settings), f"replica {place + 1}")
            for _ in range(count):
                child, answer = self._answers.get()
                self._check(child, answer)
                if child is self._children[0]:
                    self.notes = answer[1] if answer else []
        except BaseException:
            self.close()
            raise

    def _start(self, assignment: Assignment, name: str) -> None:
        log = tempfile.TemporaryFile()  # noqa: SIM115
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, str(Path(__file__).parents[2])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # the parent alone handles Ctrl-C
        )
        child = _Child(name, process, log)
        self._children.append(child)
        child.send(assignment.to_json())
        child.reader = threading.Thread(target=self._read, args=[child], daemon=True, name=f"cpm-gen {name}")
        child.reader.start()

    def _read(self, child: _Child) -> None:
        """Queue the answers of a child; None at their end."""
        assert child.process.stdout is not None
        for line in child.process.stdout:
            self._answers.put((child, json.loads(line)))
        self._answers.put((child, None))

    def _check(self, child: _Child, answer: list[Any] | None) -> None:
        """Raise ReplicaError if the answer says that the child failed, or if there is none."""
        if answer is None:
            raise child.failure()
        if answer[0] == "failed":
            raise ReplicaError(f"{child.name}: {answer[1]}", answer[2])

    @property
    def room(self) -> bool:
        """Whether a replica takes another line."""
        return any(len(child.given) < self._most for child in self._children)

    @property
    def busy(self) -> bool:
        """Whether there are results to come."""
        return any(child.given for child in self._children)

    def give(self, line: Line) -> None:
        """Send a line to the replica that has the fewest."""
        child = min(self._children, key=lambda child: len(child.given))
        child.given.add(line.number)
        child.send(json.dumps([line.number, line.id, line.content]))

    def results(self) -> list[Result]:
        """Wait a moment for results; raises ReplicaError if a replica ended."""
        found: list[Result] = []
        with contextlib.suppress(queue.Empty):
            child, answer = self._answers.get(timeout=_WAIT)
            while True:
                self._check(child, answer)
                assert answer is not None
                number, result = answer
                child.given.remove(number)
                found.append((number, result))
                child, answer = self._answers.get_nowait()
        return found

    def close(self) -> None:
        """End the children. What they are writing is lost."""
        for child in self._children:
            assert child.process.stdin is not None
            if child.given:
                child.process.kill()
            with contextlib.suppress(BrokenPipeError):
                child.process.stdin.close()
        for child in self._children:
            try:
                child.process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            if child.reader is not None:
                child.reader.join()
            if child.process.stdout is not None:
                child.process.stdout.close()
            child.log.close()
