"""A rank other than 0, as :mod:`cpm_gen.parallel.local_ranks` starts it."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time

from cpm_gen.config.options import ModelOptions


def main() -> int:
    """Join the group, load this rank's slices, follow rank 0's plans; status 0 when told to end."""
    line = sys.stdin.readline()
    if not line:
        return 1
    import torch

    from cpm_gen.errors import CpmGenError
    from cpm_gen.parallel.devices import pick_device
    from cpm_gen.parallel.local_ranks import end_with_parent, join_local
    from cpm_gen.runtime.build import make_runner
    from cpm_gen.runtime.rank_worker import Assignment

    assignment = Assignment.from_json(line)
    end_with_parent(assignment.parent, assignment.folder)
    torch.set_num_threads(assignment.threads)
    try:
        device = pick_device(assignment.options.device, assignment.rank)
        os.write(assignment.ready, b"r")
        os.close(assignment.ready)
        group = join_local(assignment.rank, assignment.size, device, assignment.folder)
        runner = make_runner(assignment.options, assignment.heads, assignment.slots, group, device)
        runner.follow()
        group.close()
    except RuntimeError:  # a connection broke: if it is rank 0 that is gone, the watch ends this process and tidies up
        time.sleep(1)
        raise
    except CpmGenError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


@dataclasses.dataclass(frozen=True)
class Assignment:
    """What a child needs to know; travels as one JSON line on its standard input."""

    rank: int
    size: int
    folder: str
    threads: int
    options: ModelOptions
    heads: int
    slots: int
    parent: int
    ready: int  # file descriptor to write a byte to

    def to_json(self) -> str:
        """One line."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(line: str) -> Assignment:
        """The inverse of :meth:`to_json`."""
        content = json.loads(line)
        return Assignment(**{**content, "options": ModelOptions(**content["options"])})
