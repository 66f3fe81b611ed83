"""Compare the weights in files with the CRC-32 that was stored with them, in threads of their own."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from cpm_gen.errors import CheckpointError

_BLOCK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Checksum:
    """A run of bytes in a file and its CRC-32. name: of the run in the file, for messages."""

    path: Path
    name: str
    offset: int
    length: int
    crc32: int

    def verify(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Read the bytes; raises CheckpointError if they are not what was saved. stopped: ends the reading early."""
        found, left = 0, self.length
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset)
                while left and not stopped():
                    block = file.read(min(left, _BLOCK))
                    if not block:
                        raise CheckpointError(f"{self.path}: the file ends before its tensors do; it is truncated")
                    found = zlib.crc32(block, found)  # releases the GIL, as read does
                    left -= len(block)
        except OSError as error:
            raise CheckpointError(f"{self.path}: {error.strerror or error}") from None
        if not left and found != self.crc32:
            raise CheckpointError(
                f"{self.path}: the bytes of {self.name!a:.60} have CRC-32 {found:08x}, but {self.crc32:08x} was saved with them: "
                "the file is damaged; copy or download it again"
            )


class VerifyBeside:
    """Verifies checksums in threads while the body of a ``with`` statement runs.

    The end of the body waits for the threads and raises CheckpointError if one of them found damage. If the body raises,
    the threads stop.
    """

    def __init__(self, checksums: Sequence[Checksum], threads: int | None = None) -> None:
        """threads: how many; None: one for each CPU, at most four."""
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1), "checksum")
        self._results = [self._pool.submit(c.verify, self._stop.is_set) for c in checksums]

    def __enter__(self) -> VerifyBeside:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                for result in self._results:
                    result.result()
        finally:
            self._stop.set()
            self._pool.shutdown(cancel_futures=True)


def verify_checksums(checksums: Sequence[Checksum]) -> None:
    """Verify all, in threads; raises CheckpointError for the first that differs."""
    with VerifyBeside(checksums):
        pass
