"""Reads the bytes of a pickle from a file, never more than there are."""

from __future__ import annotations

import pickle
from typing import IO

PICKLE_BYTES = 1 << 28
_CHUNK = 1 << 16
_WIDTHS = {"u1": 1, "u2": 2, "u4": 4, "u8": 8, "i4": 4}


class PickleSource:
    """The bytes of one pickle. Every length is compared with what is left before memory is allocated.

    data: a part of the file that was read. at: the next byte in it.
    """

    def __init__(self, file: IO[bytes], left: int) -> None:
        self._file = file
        self._unread = self.size = min(left, PICKLE_BYTES)
        self.data, self.at = b"", 0

    @property
    def left(self) -> int:
        """Bytes from here to the end."""
        return self._unread + len(self.data) - self.at

    def need(self, count: int) -> None:
        """Read until ``data`` holds the next ``count`` bytes."""
        have = len(self.data) - self.at
        if count - have > self._unread:
            raise pickle.UnpicklingError(f"{count:,} bytes are declared, {self.left:,} are left")
        more = min(max(count - have, _CHUNK), self._unread)
        self.data, self.at = self.data[self.at :] + self._file.read(more), 0
        self._unread -= more
        if len(self.data) < have + more:
            raise pickle.UnpicklingError("the file ends inside a value")

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if self.at + count > len(self.data):
            self.need(count)
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        """The next byte."""
        if self.at == len(self.data):
            self.need(1)
        self.at += 1
        return self.data[self.at - 1]

    def number(self, form: str) -> int:
        """The next number, "u1" to "u8" or "i4" as numpy writes them; not negative."""
        value = int.from_bytes(self.read(_WIDTHS[form]), "little", signed=form == "i4")
        if value < 0:
            raise pickle.UnpicklingError("a negative length")
        return value

    def line(self, most: int = PICKLE_BYTES) -> bytes:
        """The next bytes to a newline, without it."""
        while (end := self.data.find(b"\n", self.at)) < 0:
            have = len(self.data) - self.at
            if not self._unread or have > most:
                raise pickle.UnpicklingError("a line without an end")
            self.need(min(2 * have + 1, self.left))
        line = self.read(end + 1 - self.at)
        if len(line) > most:
            raise pickle.UnpicklingError("a line without an end")
        return line[:-1]

    def sized(self, form: str) -> bytes:
        """Bytes after their number."""
        return self.read(self.number(form))

    def close(self) -> None:
        """Set the file to the first byte that was not used."""
        self._file.seek(self.at - len(self.data), 1)
