"""Waiting for what other processes do."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 120.0  # seconds; the machine may be busy with something else


def until(condition: Callable[[], Any], patience: float = PATIENCE, every: float = 0.02) -> Any:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(every)
    return value
