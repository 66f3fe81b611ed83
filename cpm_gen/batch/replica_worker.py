"""A replica of a batch: the child process that :mod:`cpm_gen.batch.replicas` starts."""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import sys
import threading
from typing import Any, BinaryIO

from cpm_gen.batch.lines import Line
from cpm_gen.batch.replicas import Assignment
from cpm_gen.batch.writer import Writer
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import CpmGenError
from cpm_gen.parallel.local_ranks import exit_with_parent
from cpm_gen.runtime.plan import LoadPlan, Machine, plan_load
from cpm_gen.runtime.text_engine import TextEngine


def main() -> int:
    """Write the lines that come on standard input; returns the exit status."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)  # what a library prints is no answer
        assignment = Assignment.from_json(sys.stdin.readline())
        exit_with_parent(assignment.parent)
        try:
            _write(assignment, answers)
        except CpmGenError as error:
            _answer(answers, ["failed", str(error), error.exit_status])
            return error.exit_status
    return 0


def _write(assignment: Assignment, answers: BinaryIO) -> None:
    settings = assignment.settings
    options = replica_options(plan_load(settings.model, Machine.detect()), assignment.place, assignment.count)
    with TextEngine.load(options) as engine:
        _answer(answers, ["ready", engine.notes])
        lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        threading.Thread(target=_read, args=[lines], daemon=True, name="cpm-gen lines").start()
        writer = Writer(engine, settings)
        while True:
            while writer.room and not (writer.busy and lines.empty()):
                line = lines.get()
                if line is None:  # the parent ends when it has all results
                    return
                writer.give(line)
            for result in writer.results():
                _answer(answers, list(result))


def replica_options(plan: LoadPlan, place: int, count: int) -> ModelOptions:
    """The options of one of ``count`` replicas on a machine: GPUs of its own, or its share of the CPU's cores."""
    options, device = plan.options, plan.device
    if device.type == "cuda":
        first = (device.index or 0) + place * plan.degree
        return dataclasses.replace(options, device=f"cuda:{first}")
    if options.threads is not None:
        return options
    share = max(1, (os.cpu_count() or 1) // count)
    return dataclasses.replace(options, threads=min(share, plan.threads * plan.degree))


def _read(lines: queue.SimpleQueue[Line | None]) -> None:
    for raw in sys.stdin:
        lines.put(Line(*json.loads(raw)))
    lines.put(None)


def _answer(answers: BinaryIO, content: list[Any]) -> None:
    answers.write(json.dumps(content).encode() + b"\n")
    answers.flush()
