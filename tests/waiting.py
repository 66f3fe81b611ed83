"""Wait for what other processes do."""

import time
from collections.abc import Callable
from typing import Any

PATIENCE = 120.0  # seconds; the machine may be busy with something else


def until(condition: Callable[[], Any], patience: float = PATIENCE, every: float = 0.02) -> Any:
    """Wait for ``condition`` to return a true value, and return it. Fails after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still not true after {patience:g} seconds"
        time.sleep(every)
    return value
