"""A rank other than 0, as :mod:`cpm_gen.launch` starts it."""

from __future__ import annotations

import os
import sys
import time


def main() -> int:
    """Join the group, load this rank's slices, follow rank 0's plans; status 0 when told to end."""
    line = sys.stdin.readline()
    if not line:
        return 1
    import torch

    from cpm_gen import build, launch, parallel
    from cpm_gen.errors import CpmGenError

    assignment = launch.Assignment.from_json(line)
    parallel.end_with_parent(assignment.parent, assignment.folder)
    torch.set_num_threads(assignment.threads)
    try:
        device = parallel.pick_device(assignment.options.device, assignment.rank)
        os.write(assignment.ready, b"r")
        os.close(assignment.ready)
        group = parallel.join_local(assignment.rank, assignment.size, device, assignment.folder)
        runner = build.make_runner(assignment.options, assignment.heads, assignment.slots, group, device)
        runner.follow()
        group.close()
    except RuntimeError:  # a connection broke: if it is rank 0 that is gone, the watch ends this process and tidies up
        time.sleep(1)
        raise
    except CpmGenError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0
