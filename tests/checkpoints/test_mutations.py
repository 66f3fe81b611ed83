"""Mutated checkpoints: each opens with the right weights or is refused by an error of ours, within bounds of time and memory."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from cpm_gen.checkpoints.attention_heads import resolve_heads
from cpm_gen.checkpoints.checkpoint import verify_replicas
from cpm_gen.checkpoints.checksums import verify_checksums
from cpm_gen.checkpoints.formats.megatron import save_checkpoint
from cpm_gen.checkpoints.formats.megatron_layout import TRACKER, shard_name
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from tests.mutations import BINARY, Mutate, check, linux, mutated, mutated_text, outcome, run_mutants
from tests.random_networks import random_state

SIZE = ModelSize(layers=1, hidden=8, heads=2, vocabulary=6, positions=4)
OPCODES = b"(.0123FIJKLMNPQRSTUVXabcdeghijlopqrstu]})\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96"
JSON_TOKENS = (
    *(b"[", b"{", b"}", b'"', b",", b":", b"null", b"true", b"NaN", b"Infinity", b"1e999", b"-1", b"1.5", b"\\ud800"),
    *(b"[" * 2000, b"9" * 5000, b"\xef\xbb\xbf", b"\r\n", b"\0", b"\xff\xfe", "頭".encode(), b'"heads": 2'),
)
TRACKER_TOKENS = (
    b"7",
    b"release",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\0",
    b"9" * 5000,
    b"../",
    b"/",
    b"-",
    "７".encode(),
    b" ",
)


def set_opcode(dice: random.Random, content: bytearray) -> None:
    content[dice.randrange(len(content))] = dice.choice(OPCODES)


MUTATIONS: tuple[Mutate, ...] = (*BINARY[:4], set_opcode, *BINARY[4:])


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
        source = mutated(dice, source, MUTATIONS)
    (folder / "7" / shard_name(rank)).write_bytes(source)


def wrong_weights(folder: Path, expected: dict[str, torch.Tensor]) -> str | None:
    """Open the checkpoint and compare all weights. A legacy file has no checksum: its weights may be others."""
    legacy = any(path.read_bytes()[:2] != b"PK" for path in (folder / "7").iterdir())
    checkpoint = open_checkpoint(folder)
    verify_replicas(checkpoint)
    verify_checksums(checkpoint.checksums)
    for name in checkpoint.tensors:
        loaded = torch.empty(checkpoint.slice_shape(name, 1), dtype=checkpoint.tensors[name].dtype)
        checkpoint.copy_slice(name, 0, 1, loaded)
        if not legacy and not torch.equal(loaded, expected[name]):
            return f"{name} has other values"
    return None


def run_shards(folder: Path, first: int, count: int) -> dict[str, Any]:
    write_original(folder)
    originals = {p.name: p.read_bytes() for p in (*(folder / "7").iterdir(), *folder.glob("legacy?"))}
    expected = random_state(SIZE)
    assert wrong_weights(folder, expected) is None

    def attempt(dice: random.Random) -> str:
        mutant(dice, folder, originals)
        return outcome(lambda: wrong_weights(folder, expected))

    return run_mutants(attempt, first, count)


def run_small_files(folder: Path, first: int, count: int) -> dict[str, Any]:
    """config.json, our tracker and DeepSpeed's; a size that was read must be the network's."""
    save_checkpoint(folder, random_state(SIZE), degree=1, iteration=7)
    originals = {"config.json": b'{"heads": 2, "attention": [{"kind": "dense"}]}', TRACKER: b"7", "latest": b"7"}

    def attempt(dice: random.Random) -> str:
        name = dice.choice(("config.json", "config.json", TRACKER, "latest"))
        for kept in ("config.json", *((TRACKER,) if name == "config.json" else (name,))):
            (folder / kept).write_bytes(originals[kept])
        for other in {TRACKER, "latest"} - {name} if name != "config.json" else {"latest"}:
            (folder / other).unlink(missing_ok=True)
        tokens = JSON_TOKENS if name == "config.json" else TRACKER_TOKENS
        (folder / name).write_bytes(mutated_text(dice, originals[name], tokens))

        def read() -> str | None:
            checkpoint = open_checkpoint(folder)
            size = checkpoint.size(resolve_heads(checkpoint, None))
            return None if size.hidden == SIZE.hidden and size.hidden % size.heads == 0 else f"wrong sizes: {size}"

        return outcome(read)

    return run_mutants(attempt, first, count)


@linux
def test_mutants_open_right_or_are_refused(tmp_path: Path) -> None:
    check(__name__, "run_shards", tmp_path, 400)


@linux
def test_mutants_of_the_files_beside_the_weights_are_read_or_refused(tmp_path: Path) -> None:
    check(__name__, "run_small_files", tmp_path, 400)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("first", range(10_000, 12_000, 500))
def test_many_mutants_open_right_or_are_refused(tmp_path: Path, first: int) -> None:
    check(__name__, "run_shards", tmp_path, 500, first=first)
