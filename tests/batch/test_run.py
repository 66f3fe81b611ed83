"""The loop of a batch with workers that answer in any order: each line once, in order where that is asked for, and bounded."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from cpm_gen.batch.lines import Line, Result
from cpm_gen.batch.output_file import OutputFile
from cpm_gen.batch.run import run_batch


class Shuffling:
    """Workers that hold up to ``most`` lines and answer one of them at random, the line ``slow`` last of all."""

    def __init__(self, seed: int, most: int, slow: int = -1) -> None:
        self.dice = random.Random(seed)
        self.most = most
        self.slow = slow
        self.lines: list[Line] = []
        self.longest = 0

    @property
    def room(self) -> bool:
        return len(self.lines) < self.most

    @property
    def busy(self) -> bool:
        return bool(self.lines)

    def give(self, line: Line) -> None:
        self.lines.append(line)

    def results(self) -> list[Result]:
        quick = [line for line in self.lines if line.number != self.slow]
        chosen = self.dice.choice(quick or self.lines)
        self.lines.remove(chosen)
        return [(chosen.number, {"id": chosen.id, "text": ""})]


def lines(count: int) -> Iterator[Line]:
    for number in range(1, count + 1):
        yield Line(number, number, {}) if number % 5 else Line(number, None, {}, f"line {number}: wrong")


def keys(path: Path) -> list[int]:
    return [r["id"] or r["line"] for r in map(json.loads, path.read_text().splitlines())]


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_each_line_is_written_once(tmp_path: Path, seed: int, in_order: bool) -> None:
    output = OutputFile(tmp_path / "out")
    run_batch(lines(40), Shuffling(seed, 7), output, in_order=in_order)
    output.close()
    found = keys(tmp_path / "out")
    assert sorted(found) == list(range(1, 41))
    assert (found == sorted(found)) == in_order


def test_in_order_a_slow_line_holds_a_bounded_number_of_others(tmp_path: Path) -> None:
    read: list[int] = []
    furthest: list[int] = []

    def counted() -> Iterator[Line]:
        for line in lines(100):
            read.append(line.number)
            yield line

    class Slow(Shuffling):
        def results(self) -> list[Result]:
            if any(line.number == self.slow for line in self.lines):
                furthest.append(max(read))
            return super().results()

    output = OutputFile(tmp_path / "out")
    run_batch(counted(), Slow(0, 4, slow=3), output, in_order=True, most=10)
    output.close()
    assert keys(tmp_path / "out") == list(range(1, 101))
    assert max(furthest) == 12  # ten lines from the third on


def test_a_stop_ends_the_run_with_what_is_written(tmp_path: Path) -> None:
    output = OutputFile(tmp_path / "out")
    run_batch(lines(40), Shuffling(0, 7), output, stop=lambda: len(output.written) >= 10)
    assert len(output.written) == 10
    run_batch((line for line in lines(40) if not output.written.has(line.id, line.number)), Shuffling(1, 7), output)
    output.close()
    assert sorted(keys(tmp_path / "out")) == list(range(1, 41))
