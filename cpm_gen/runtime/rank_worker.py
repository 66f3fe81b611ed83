"""A rank other than 0 on this machine: the child process that :mod:`cpm_gen.parallel.local_ranks` starts."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time

import torch

from cpm_gen.checkpoints.locate import model_folder, open_checkpoint
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import CpmGenError
from cpm_gen.parallel.local_ranks import exit_with_parent, join_local
from cpm_gen.runtime.build import build_runner
from cpm_gen.runtime.plan import RankPlan
from cpm_gen.translation import localized


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What a child needs to know, sent as one JSON line on its standard input.

    folder: where the ranks connect. parent: process id of rank 0. ready: file descriptor that takes a byte when the child can
    connect.
    """

    rank: int
    size: int
    folder: str
    parent: int
    ready: int
    plan: RankPlan

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(line: str) -> Assignment:
        """The inverse of :meth:`to_json`."""
        content = json.loads(line)
        plan = content.pop("plan")
        options = ModelOptions(**plan.pop("options"))
        return Assignment(**content, plan=RankPlan(options, **plan))


def main() -> int:
    """Join the group, load this rank's slices and follow rank 0's plans to the end; returns the exit status."""
    line = sys.stdin.readline()
    if not line:
        return 1
    assignment = Assignment.from_json(line)
    plan = assignment.plan
    exit_with_parent(assignment.parent, assignment.folder)
    torch.set_num_threads(plan.threads)
    try:
        os.write(assignment.ready, b"r")
        os.close(assignment.ready)
        group = join_local(assignment.rank, assignment.size, torch.device(plan.device), assignment.folder)
        runner = build_runner(plan, open_checkpoint(model_folder(plan.options.model)), group)
        runner.follow()
        group.close()
    except (
        RuntimeError
    ):  # a connection broke; if rank 0 is gone, the parent watch ends this process and removes the folder
        time.sleep(1)
        raise
    except CpmGenError as error:
        sys.stderr.write(localized(str(error)) + "\n")
        return error.exit_status
    return 0
