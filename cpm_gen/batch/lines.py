"""The lines of a batch's input: each a JSON object with a prompt. They are read one by one; only their ids stay in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cpm_gen.batch.output_file import Written
from cpm_gen.config.arguments import shown
from cpm_gen.config.json_lines import json_object
from cpm_gen.errors import InputError

Id = str | int
Result = tuple[int, dict[str, Any]]  # a line's number, and what the output says of it

_LONGEST = 512  # characters of an id


@dataclass(frozen=True)
class Line:
    """A line with a prompt, or one that cannot be used.

    number: its number, from 1 on. id: its own, or its number; None where it has none that can be used. content: its object. error: why it
    cannot be used; it names the line.
    """

    number: int
    id: Id | None
    content: Mapping[str, Any]
    error: str | None = None

    def failed(self, error: str) -> dict[str, Any]:
        """The result of a line that gives no text. A line without an id is known by its number."""
        known: dict[str, Any] = {"id": self.id} if self.id is not None else {"id": None, "line": self.number}
        return known | {"error": error}


class LineReader:
    """Yields the lines of which there is no result yet.

    written: the results that an earlier run wrote. read: number of lines so far that are not blank. skipped: those of them with a result.
    """

    def __init__(self, lines: Iterable[bytes], written: Written) -> None:
        self._lines = lines
        self._written = written
        self._ids: set[Id] = set()
        self.read = 0
        self.skipped = 0

    def __iter__(self) -> Iterator[Line]:
        """Each line in turn. A line that cannot be used has an ``error``."""
        for number, raw in enumerate(self._lines, start=1):
            line = self._line(number, raw)
            if line is None:
                continue
            self.read += 1
            if self._written.has(line.id, number):
                self.skipped += 1
            else:
                yield line

    def _line(self, number: int, raw: bytes) -> Line | None:
        """The line; None for a blank one."""
        place = f"line {number}"
        try:
            content = json_object(raw, place)
        except InputError as error:
            return Line(number, None, {}, str(error))
        if content is None:
            return None
        try:
            found = _id(content, number)
        except InputError as error:
            return Line(number, None, {}, f"{place}: {error}")
        if found in self._ids:
            return Line(number, None, {}, f"{place}: the id {shown(found)} is that of an earlier line")
        self._ids.add(found)
        return Line(number, found, content)


def is_openai(content: Mapping[str, Any]) -> bool:
    """Whether it is a line of OpenAI's batch files."""
    return "custom_id" in content or "body" in content


def _id(content: Mapping[str, Any], number: int) -> Id:
    """The line's own id, or its number. Raises InputError."""
    name = "custom_id" if is_openai(content) else "id"
    found = content.get(name)
    if found is None:
        return number
    if isinstance(found, bool) or not isinstance(found, (str, int)):
        raise InputError(f"{name} must be text or a whole number, not {shown(found)}")
    if isinstance(found, str):
        if not 0 < len(found) <= _LONGEST:
            raise InputError(f"{name} must have from 1 to {_LONGEST} characters, not {len(found)}")
        try:
            found.encode()
        except UnicodeEncodeError:
            raise InputError(f"{name} must be Unicode text, without lone surrogates") from None
    return found
