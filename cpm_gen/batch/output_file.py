"""The results of a batch in a file: a JSON object a line, each written once, also by a run that goes on after another was killed."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from cpm_gen.errors import InputError

_BEGINNING = b'{"id": '  # of every result


@dataclass
class Written:
    """What a file of results holds: the ids of the results, the numbers of lines without one, and how many of all are errors."""

    ids: set[Any] = field(default_factory=set)
    lines: set[Any] = field(default_factory=set)
    errors: int = 0

    def __len__(self) -> int:
        return len(self.ids) + len(self.lines)

    def has(self, id: str | int | None, number: int) -> bool:
        """Whether there is a result of the line with this id, or for None with this number."""
        return number in self.lines if id is None else id in self.ids

    def add(self, result: Mapping[str, Any]) -> bool:
        """Count a result. False: it is none, or the second one of its id."""
        found, number = result.get("id"), result.get("line")
        kept, key = (self.lines, number) if found is None else (self.ids, found)
        if isinstance(key, bool) or not isinstance(key, (str, int)) or key in kept:
            return False
        if not any(name in result for name in ("text", "samples", "error")):
            return False
        kept.add(key)
        self.errors += "error" in result
        return True


class OutputFile:
    """A file of results, open for appending and locked against other processes.

    written: its results. Raises InputError for a file that another process writes, and for one that holds something else, which it keeps.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written = Written()
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise InputError(f"{path}: cannot be written: {error.strerror or error}") from None
        try:
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                raise InputError(f"{path}: is not a regular file; a batch that is interrupted goes on from it")
            self._lock()
            with open(os.dup(self._file), "rb") as results:  # noqa: PTH123
                self._length = self._read(results)
            os.ftruncate(self._file, self._length)  # without a last line that was written in part
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{self.path}: another process writes a batch to it; wait for it, or give another file"
            ) from None
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be locked: {error.strerror or error}; give a file elsewhere"
            ) from None

    def _read(self, results: BinaryIO) -> int:
        """Count the results; returns the length of the complete lines."""
        length = 0
        for number, raw in enumerate(results, start=1):
            if not raw.endswith(b"\n"):
                if raw[: len(_BEGINNING)] != _BEGINNING[: len(raw)]:
                    raise self._foreign(number)
                break
            try:
                content = json.loads(raw)
            except (ValueError, RecursionError):
                raise self._foreign(number) from None
            if not isinstance(content, dict) or not self.written.add(content):
                raise self._foreign(number)
            length += len(raw)
        return length

    def _foreign(self, number: int) -> InputError:
        return InputError(
            f"{self.path}, line {number}: is no result of a batch, or the second one of its id; give another file"
        )

    def append(self, result: Mapping[str, Any]) -> None:
        """Write a result. Raises InputError where there is no room; then the file is as it was."""
        # a lone surrogate, which UTF-8 does not have, becomes the escape of JSON
        line = (json.dumps(result, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        done = 0
        try:
            while done < len(line):
                done += os.write(self._file, line[done:])
        except OSError as error:
            os.ftruncate(self._file, self._length)
            raise InputError(f"{self.path}: cannot be written: {error.strerror or error}") from None
        self._length += len(line)
        self.written.add(result)

    def close(self) -> None:
        """Write what the system holds to the disk, and unlock the file."""
        try:
            os.fsync(self._file)
        finally:
            os.close(self._file)
