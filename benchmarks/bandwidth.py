"""Memory bandwidth of this machine now, with all threads: the upper bound for a decode step.

Every thread computes the maximum of its part of an array too large for any cache. numpy does that with vector instructions and
without the interpreter lock. A loop of AVX-512 loads in C++ gives the same result within the machine's noise.

    python benchmarks/bandwidth.py
"""

from __future__ import annotations

import os
import statistics
import threading
import time

import numpy as np

SIZE = 1 << 30  # bytes


class Memory:
    """An array and the threads that read it."""

    def __init__(self, threads: int) -> None:
        self._parts = np.array_split(np.ones(SIZE // 4, np.uint32), threads)

    def bandwidth(self, passes: int = 5) -> float:
        """Bytes per second: the median of ``passes`` passes."""
        return statistics.median(self._read() for _ in range(passes))

    def _read(self) -> float:
        readers = [threading.Thread(target=part.max) for part in self._parts]
        began = time.perf_counter()
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        return SIZE / (time.perf_counter() - began)


if __name__ == "__main__":
    memory = Memory(os.cpu_count() or 1)
    print("GB/s:", *(f"{memory.bandwidth() / 1e9:.1f}" for _ in range(5)))
