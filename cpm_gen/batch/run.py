"""The loop of a batch: lines go to what writes them while it has room, results go to the output."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from cpm_gen.batch.lines import Line, Result
from cpm_gen.batch.output_file import OutputFile

HELD = 4096


class Workers(Protocol):
    """What writes the texts: one engine of this process, or several processes."""

    @property
    def room(self) -> bool:
        """Whether it takes another line now."""

    @property
    def busy(self) -> bool:
        """Whether there are results to come."""

    def give(self, line: Line) -> None:
        """Begin a line."""

    def results(self) -> list[Result]:
        """Work, or wait, for a while; returns the results that are complete."""


def run_batch(
    lines: Iterator[Line],
    workers: Workers,
    output: OutputFile,
    *,
    in_order: bool = False,
    most: int = HELD,
    report: Callable[[Mapping[str, Any]], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Write a result for each line, as they come, or ``in_order`` of the lines.

    most: in order, the number of lines that may be written at once or wait for one before them.
    report: called with each result when it was written. stop: asked again and again; True ends the run, and what is not complete is not
    written. Raises InputError where there is no room for a result.
    """
    held = _Held(in_order, most)

    def write() -> None:
        for result in held.ready():
            output.append(result)
            report(result)

    more = True
    while not stop():
        while more and workers.room and held.room and not stop():
            line = next(lines, None)
            if line is None:
                more = False
                break
            held.expect(line.number)
            if line.error is None:
                workers.give(line)
            else:
                held.put(line.number, line.failed(line.error))
                write()  # now: a file may hold nothing but such lines
        if workers.busy:
            for number, result in workers.results():
                held.put(number, result)
        write()
        if not more and not workers.busy:
            return


class _Held:
    """Results that are complete, in the order in which they are written."""

    def __init__(self, in_order: bool, most: int) -> None:
        self._in_order = in_order
        self._most = most
        self._expected: deque[int] = deque()
        self._done: dict[int, dict[str, Any]] = {}

    @property
    def room(self) -> bool:
        """Whether another line may begin."""
        return len(self._expected) < self._most

    def expect(self, number: int) -> None:
        """A line begins, after those before it."""
        if self._in_order:
            self._expected.append(number)

    def put(self, number: int, result: dict[str, Any]) -> None:
        """The result of a line."""
        self._done[number] = result

    def ready(self) -> Iterator[dict[str, Any]]:
        """The results that may be written."""
        if not self._in_order:
            done, self._done = self._done, {}
            yield from done.values()
            return
        while self._expected and self._expected[0] in self._done:
            yield self._done.pop(self._expected.popleft())
