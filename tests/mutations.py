"""Mutants: damaged copies of a file, and the outcome of reading one, within bounds of time, memory and message length.

Mutants are made and read in a process of its own with little address space (:func:`check`). Their seeds are fixed: one that fails
is named by its seed and can be made again.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cpm_gen.errors import CpmGenError

MEMORY = 400_000_000  # bytes of address space above what the imports take
SECONDS = 5.0  # CPU time for one mutant; usual are milliseconds
MESSAGE = 1500  # characters of an error's message

Mutate = Callable[[random.Random, bytearray], None]
Outcome = Callable[[random.Random], str]

NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 35,
    (1 << 63) - 1,
    (1 << 64) - 1,
)


def flip(dice: random.Random, content: bytearray) -> None:
    for _ in range(dice.choice((1, 1, 2, 8))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)


def set_number(dice: random.Random, content: bytearray) -> None:
    width = dice.choice((1, 2, 4, 8))
    at = dice.randrange(len(content) - width)
    value = dice.choice(NUMBERS) & ((1 << 8 * width) - 1)
    content[at : at + width] = value.to_bytes(width, dice.choice(("little", "big")))


def cut(dice: random.Random, content: bytearray) -> None:
    del content[dice.randrange(len(content)) :]


def remove(dice: random.Random, content: bytearray) -> None:
    at = dice.randrange(len(content))
    del content[at : at + dice.choice((1, 2, 16, 500))]


def repeat(dice: random.Random, content: bytearray) -> None:
    at, length = dice.randrange(len(content)), dice.choice((1, 4, 30, 500))
    content[at:at] = content[at : at + length] * dice.choice((1, 2, 50))


def exchange(dice: random.Random, content: bytearray) -> None:
    length = dice.choice((1, 4, 30))
    a, b = (dice.randrange(len(content) - length) for _ in range(2))
    content[a : a + length], content[b : b + length] = content[b : b + length], content[a : a + length]


def zeros(dice: random.Random, content: bytearray) -> None:
    at, length = dice.randrange(len(content)), dice.choice((4, 64, 512))
    end = min(at + length, len(content))
    content[at:end] = bytes(end - at)


BINARY: tuple[Mutate, ...] = (flip, flip, set_number, set_number, cut, remove, repeat, exchange, zeros)


def mutated(dice: random.Random, content: bytes, mutations: tuple[Mutate, ...] = BINARY, least: int = 40) -> bytearray:
    """A copy with one or two mutations; those that follow a cut need at least ``least`` bytes."""
    source = bytearray(content)
    for _ in range(dice.choice((1, 1, 2))):
        if len(source) > least:
            dice.choice(mutations)(dice, source)
    return source


def mutated_text(dice: random.Random, content: bytes, tokens: tuple[bytes, ...]) -> bytes:
    """A copy in which bytes are changed or removed, and ``tokens`` of the language are inserted."""
    source = bytearray(content)
    for _ in range(dice.choice((1, 2, 5, 20))):
        at, kind = dice.randrange(len(source) + 1), dice.random()
        if kind < 0.3 and at < len(source):
            source[at] = dice.randrange(256)
        elif kind < 0.8:
            source[at:at] = dice.choice(tokens)
        else:
            del source[at : at + dice.choice((1, 1, 3, 20))]
    return bytes(source)


def outcome(read: Callable[[], str | None]) -> str:
    """ "right", "refused", or what is wrong. ``read`` raises, or returns what is wrong with the result."""
    try:
        return read() or "right"
    except CpmGenError as error:
        message = str(error)
        if not message or "\n" in message or len(message) > MESSAGE or not message.isprintable():
            return f"a bad message of {len(message)} characters: {message[:200]!r}"
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"


def run_mutants(attempt: Outcome, first: int, count: int) -> dict[str, Any]:
    """Outcomes of the mutants ``first`` to ``first + count``; ``attempt`` makes one from its dice and reads it."""
    outcomes = {"right": 0, "refused": 0}
    wrong = []
    for seed in range(first, first + count):
        print(f"mutant {seed}", file=sys.stderr, flush=True)  # the last one, if the process crashes
        began = time.process_time()
        found = attempt(random.Random(seed))
        seconds = time.process_time() - began
        if found not in outcomes or seconds > SECONDS:
            wrong.append(f"mutant {seed}: {found} after {seconds:.1f} s")
        else:
            outcomes[found] += 1
    return {**outcomes, "wrong": wrong}


CHILD = """
import importlib, json, resource, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
module = importlib.import_module(sys.argv[1])
if "torch" in sys.modules:
    sys.modules["torch"].set_num_threads(1)
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + int(sys.argv[6]),) * 2)
print(json.dumps(getattr(module, sys.argv[2])(Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))))
"""


def check(
    module: str, run: str, folder: Path, count: int, *, first: int = 0, right: float = 0.02, refused: float = 0.25
) -> None:
    """Call ``run`` of ``module`` with (folder, first, count) in a process of its own; all its outcomes must be good ones.

    right, refused: the least shares of the two, because mutations that only destroy, or do nothing, test nothing.
    """
    words = [module, run, str(folder), str(first), str(count), str(MEMORY)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CPM_GEN_")}
    result = subprocess.run(
        [sys.executable, "-c", CHILD, *words],
        capture_output=True,
        text=True,
        timeout=60 + count,
        cwd=Path(__file__).parents[1],
        env=environment,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    outcomes = json.loads(result.stdout)
    print(outcomes)
    assert outcomes["wrong"] == []
    assert outcomes["right"] >= right * count
    assert outcomes["refused"] >= refused * count


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
