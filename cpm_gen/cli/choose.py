"""``choose``: zero-shot choice by likelihood, with accuracy and predictions."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import sys
from pathlib import Path

from cpm_gen.cli.progress import Remaining, Status
from cpm_gen.cli.tables import with_interval
from cpm_gen.cli.write import Interrupt, check_output, follows, open_model, open_output
from cpm_gen.config.arguments import path_argument
from cpm_gen.config.json_lines import json_lines
from cpm_gen.config.resolve import Settings
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.evaluation.choose import Choice, accuracy
from cpm_gen.evaluation.choose import choose as choices_of
from cpm_gen.evaluation.scorer import ModelScorer
from cpm_gen.evaluation.tasks import Task, read_task
from cpm_gen.text.documents import file_bytes
from cpm_gen.translation import localized


def choose(args: argparse.Namespace, settings: Settings) -> int:
    """Predict the label of each record."""
    if follows(settings):
        return 0
    task = _changed(read_task(args.task), args)
    path: Path = path_argument(args.data, "--data")
    records = list(json_lines(io.BytesIO(file_bytes(path)), str(path)))
    predictions = None if args.predictions == "-" else args.predictions
    check_output(predictions, "--predictions")
    seed = settings.text.seed or 0
    choices: list[Choice] = []
    with Interrupt() as interrupt, open_model(settings) as engine:
        length = engine.size.positions if args.length is None else args.length
        if length > engine.size.positions:
            raise ConfigError(
                f"--length must be at most {engine.size.positions}, the network's positions, not {length}"
            )
        found = choices_of(ModelScorer(engine), task, records, length=length, seed=seed)
        with Status(beside_text=False) as status, contextlib.ExitStack() as stack:
            out = stack.enter_context(open_output(predictions)) if args.predictions is not None else None
            remaining = Remaining(status, task.name, len(records))
            try:
                for done, choice in enumerate(found, start=1):
                    choices.append(choice)
                    if out is not None:
                        out.write(json.dumps(choice.to_json(), ensure_ascii=False) + "\n")
                        out.flush()
                    remaining.show(done)
                    if interrupt.asked:
                        break
            except InputError as error:
                raise InputError(f"{path}, {error}") from None
    if not choices:
        raise InputError(f"{path}: no record of it is scored in this task")
    _report(args, task, choices, len(records), seed, to_stderr=args.predictions == "-")
    return interrupt.status


def _changed(task: Task, args: argparse.Namespace) -> Task:
    given = {"score": args.score, "candidates": args.labels_each}
    changes = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(task, **changes)


def _report(
    args: argparse.Namespace, task: Task, choices: list[Choice], records: int, seed: int, *, to_stderr: bool
) -> None:
    figure = accuracy(choices, seed)
    report = {
        "task": task.name,
        "data": args.data,
        "records": records,
        "scored": len(choices),
        "candidates": task.candidates or len(task.labels),
        "score": task.score,
        "seed": seed,
        "accuracy": figure and figure.to_json(),
    }
    if args.json:
        line = json.dumps(report, ensure_ascii=False)
    else:
        line = f"{task.name}: {len(choices):,} of {records:,} records, {report['candidates']} labels each"
        if figure is not None:
            line += f": accuracy {with_interval(figure, '.1%')}"
    (sys.stderr if to_stderr else sys.stdout).write(localized(line) + "\n")
