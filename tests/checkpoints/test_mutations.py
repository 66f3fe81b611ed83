"""Mutated checkpoints: each opens with the right weights or is refused by an error of ours, within bounds of time and memory.

A batch of mutants runs in a process of its own with little address space. The seeds are fixed: a mutant that fails is named
by its number and can be made again.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cpm_gen.checkpoints.checkpoint import verify_replicas
from cpm_gen.checkpoints.checksums import verify_checksums
from cpm_gen.checkpoints.formats.megatron import save_checkpoint
from cpm_gen.checkpoints.formats.megatron_layout import TRACKER, shard_name
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.errors import CpmGenError
from tests.random_networks import random_state

SIZE = ModelSize(layers=1, hidden=8, heads=2, vocabulary=6, positions=4)
MEMORY = 400_000_000  # bytes of address space above what the imports take
SECONDS = 5.0  # CPU time for one mutant; usual are 3 ms

Mutate = Callable[[random.Random, bytearray], None]

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
OPCODES = b"(.0123FIJKLMNPQRSTUVXabcdeghijlopqrstu]})\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96"


def flip(dice: random.Random, content: bytearray) -> None:
    for _ in range(dice.choice((1, 1, 2, 8))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)


def set_number(dice: random.Random, content: bytearray) -> None:
    width = dice.choice((1, 2, 4, 8))
    at = dice.randrange(len(content) - width)
    value = dice.choice(NUMBERS) & ((1 << 8 * width) - 1)
    content[at : at + width] = value.to_bytes(width, dice.choice(("little", "big")))


def set_opcode(dice: random.Random, content: bytearray) -> None:
    content[dice.randrange(len(content))] = dice.choice(OPCODES)


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


MUTATIONS: tuple[Mutate, ...] = (flip, flip, set_number, set_number, set_opcode, cut, remove, repeat, exchange, zeros)


def content_of(rank: int, parts: dict[str, list[torch.Tensor]]) -> dict[str, Any]:
    """A shard with all that DeepSpeed and people put beside the weights."""
    return {
        "module": {name: values[rank] for name, values in parts.items()},
        "mp_world_size": 2,
        "random_rng_state": (3, (1, 2, 1 << 31), None),
        "optimizer": {"state": {0: {"step": 3, "m": torch.ones(3)}}, "groups": [{"params": [0], "lr": 0.1}]},
    }


def write_original(folder: Path) -> None:
    """Rank 0 as a zip file, rank 1 in both formats: ``legacy`` beside it."""
    save_checkpoint(folder, random_state(SIZE), degree=2, iteration=7)
    for rank in range(2):
        path = folder / "7" / shard_name(rank)
        content = torch.load(path)
        parts = {name: [tensor, tensor] for name, tensor in content["module"].items()}
        torch.save(content_of(rank, parts), path)
        torch.save(content_of(rank, parts), folder / f"legacy{rank}", _use_new_zipfile_serialization=False)


def mutant(dice: random.Random, folder: Path, originals: dict[str, bytes]) -> None:
    """Restore the folder and change one file of it."""
    for name in (shard_name(0), shard_name(1)):
        (folder / "7" / name).write_bytes(originals[name])
    (folder / TRACKER).write_bytes(b"7")
    kind = dice.choice(("zip", "zip", "zip", "zip head", "legacy", "legacy", "tracker"))
    if kind == "tracker":
        (folder / TRACKER).write_bytes(bytes(dice.randrange(256) for _ in range(dice.randrange(6))))
        return
    rank = dice.randrange(2)
    source = bytearray(originals[f"legacy{rank}" if kind == "legacy" else shard_name(rank)])
    if kind == "zip head":  # where data.pkl and the first headers are
        head = source[:2500]
        dice.choice(MUTATIONS)(dice, head)
        source[:2500] = head
    else:
        for _ in range(dice.choice((1, 1, 2))):
            if len(source) > 40:
                dice.choice(MUTATIONS)(dice, source)
    (folder / "7" / shard_name(rank)).write_bytes(source)


def attempt(folder: Path, expected: dict[str, torch.Tensor]) -> str:
    """ "right", "refused", or what is wrong. A legacy file has no checksum: its weights may be others."""
    legacy = any(path.read_bytes()[:2] != b"PK" for path in (folder / "7").iterdir())
    try:
        checkpoint = open_checkpoint(folder)
        verify_replicas(checkpoint)
        verify_checksums(checkpoint.checksums)
        for name in checkpoint.tensors:
            loaded = torch.empty(checkpoint.slice_shape(name, 1), dtype=checkpoint.tensors[name].dtype)
            checkpoint.copy_slice(name, 0, 1, loaded)
            if not legacy and not torch.equal(loaded, expected[name]):
                return f"{name} has other values"
    except CpmGenError as error:
        message = str(error)
        return "refused" if "\n" not in message and len(message) < 1500 else f"a bad message: {message[:200]}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "right"


def run_batch(folder: Path, first: int, count: int) -> dict[str, Any]:
    """Outcomes of the mutants ``first`` to ``first + count``; each has a seed of its own."""
    write_original(folder)
    originals = {p.name: p.read_bytes() for p in (*(folder / "7").iterdir(), *folder.glob("legacy?"))}
    expected = random_state(SIZE)
    assert attempt(folder, expected) == "right"
    outcomes = {"right": 0, "refused": 0}
    wrong = []
    for seed in range(first, first + count):
        mutant(random.Random(seed), folder, originals)
        began = time.process_time()
        outcome = attempt(folder, expected)
        seconds = time.process_time() - began
        if outcome not in outcomes or seconds > SECONDS:
            wrong.append(f"mutant {seed}: {outcome} after {seconds:.1f} s")
        else:
            outcomes[outcome] += 1
    return {**outcomes, "wrong": wrong}


CHILD = """
import json, resource, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
from tests.checkpoints.test_mutations import MEMORY, run_batch
import torch
torch.set_num_threads(1)
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY,) * 2)
print(json.dumps(run_batch(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
"""


def check(folder: Path, first: int, count: int) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(first), str(count)],
        capture_output=True,
        text=True,
        timeout=60 + count,
        cwd=Path(__file__).parents[2],
    )
    assert result.returncode == 0, result.stderr[-2000:]
    outcomes = json.loads(result.stdout)
    print(outcomes)
    assert outcomes["wrong"] == []
    assert outcomes["right"] > count // 50  # else the mutations only destroy
    assert outcomes["refused"] > count // 4


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")


@linux
def test_mutants_open_right_or_are_refused(tmp_path: Path) -> None:
    check(tmp_path, 0, 400)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 12_000, 500))
def test_many_mutants_open_right_or_are_refused(tmp_path: Path, first: int) -> None:
    check(tmp_path, first, 500)
