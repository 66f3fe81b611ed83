"""Files made to cost much: each is refused or opened within bounds of time and memory, whatever numbers it holds."""

import io
import pickle
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cpm_gen.checkpoints.formats import safe_pickle
from cpm_gen.checkpoints.formats.megatron_layout import TRACKER, shard_name
from cpm_gen.checkpoints.formats.safe_pickle import Unpickler
from cpm_gen.checkpoints.formats.torch_file import SavedFile
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.config.model_sizes import ModelSize
from cpm_gen.errors import CheckpointError
from tests.random_networks import random_checkpoint, random_state

TINY = ModelSize(layers=1, hidden=8, heads=2, vocabulary=6, positions=4)


def text(value: str) -> bytes:
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def unpickle(pickled: bytes) -> tuple[Any, list[str]]:
    notes: dict[str, None] = {}

    def refuse(*_: Any) -> Any:
        raise AssertionError

    machine = Unpickler(io.BytesIO(pickled), len(pickled), refuse, refuse, lambda name: notes.setdefault(name))
    return machine.load(), list(notes)


def zipped(folder: Path, pickled: bytes, *, compressed: bool = False, records: dict[str, bytes] | None = None) -> Path:
    """A checkpoint's folder whose only shard holds this pickle."""
    (folder / "1").mkdir(parents=True)
    (folder / TRACKER).write_text("1")
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(folder / "1" / shard_name(0), "w", method) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in (records or {}).items():
            archive.writestr(f"archive/{name}", content)
    return folder


MARK_TUPLES = b"(" + b"K\x01" * 4000 + b"tq\x00"  # one long tuple, stored as number 0
LONG_TEXT = text("a" * 20_000)
HOSTILE: dict[str, tuple[bytes, str]] = {
    # name -> pickle, what is said
    "a bytearray of 4 GB": (b"\x80\x05\x96" + struct.pack("<Q", 1 << 32) + b"x.", "bytes are declared"),
    "bytes of 32 GB": (b"\x80\x05\x8e" + struct.pack("<Q", 1 << 35) + b"x.", "bytes are declared"),
    "a string of 4 GB": (b"\x80\x05X" + struct.pack("<I", (1 << 32) - 1) + b"x.", "bytes are declared"),
    "a string of 2 ** 63": (b"\x80\x05\x8d" + struct.pack("<Q", 1 << 63) + b"x.", "bytes are declared"),
    "a frame of 32 GB": (b"\x80\x05\x95" + struct.pack("<Q", 1 << 35) + b"N.", "a frame of"),
    "a negative length": (b"\x80\x02\x8b" + struct.pack("<i", -5) + b".", "negative length"),
    "a number of 4 MB": (b"\x80\x02\x8b" + struct.pack("<i", 4 << 20) + b"\x7f" * (4 << 20) + b".", "whole number of"),
    "a number of many digits": (b"I" + b"9" * 100_000 + b"\n.", "line without an end"),
    "nested tuples as a key": (b"\x80\x02}" + b")" + b"0)\x85" + b"2\x86" * 60 + b"Ns.", "cannot be a key"),
    "nested tuples in a frozenset": (b"\x80\x04()\x85" + b"2\x86" * 60 + b"\x91.", "cannot be a key"),
    "nested tuples in a set": (b"\x80\x04\x8f()\x85" + b"2\x86" * 60 + b"\x90.", "cannot be a key"),
    "a long tuple as a key, often": (b"\x80\x02" + MARK_TUPLES + b"}" + b"h\x00Ns" * 9000 + b".", "cannot be a key"),
    "a long number as a key": (b"\x80\x02}\x8a\x20" + b"\x7f" * 32 + b"Ns.", "cannot be a key"),
    "a long string as a key": (b"\x80\x02}" + LONG_TEXT + b"Ns.", "a key of 20,000 characters"),
    "a list as a key": (b"\x80\x02}]Ns.", "cannot be a key"),
    "keys of a call": (b"\x80\x02ccollections\nOrderedDict\n(]N\x86l\x85R.", "cannot be a key"),
    "many numbers as keys": (
        b"\x80\x02}(" + b"".join(b"J" + struct.pack("<i", n << 8) + b"N" for n in range(150_000)) + b"u.",
        "too many keys",
    ),
    "one list copied often": (
        b"\x80\x02(" + b"N" * 20_000 + b"lq\x00cbuiltins\nset\nq\x01" + b"0h\x01h\x00\x85R" * 5000 + b".",
        "copied too often",
    ),
    "one string encoded often": (
        b"\x80\x02" + LONG_TEXT + text("latin1") + b"\x86q\x00c_codecs\nencode\nq\x01" + b"0h\x01h\x00R" * 500 + b".",
        "copied too often",
    ),
    "one long tuple as arguments": (
        b"\x80\x02" + MARK_TUPLES + b"ctorch\nSize\nh\x00R.",
        "a call that no checkpoint makes",
    ),
    "shared lists": (b"\x80\x02]" + b"2\x86" * 40 + b".", "nested too deep"),
    "shared wide tuples": (b"\x80\x02N" + (b"q\x00(" + b"h\x00" * 30 + b"t") * 12 + b".", "nested too deep"),
    "deep lists": (b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", "nested too deep"),
    "deep tuples": (b"\x80\x02N" + b"\x85" * 100_000 + b".", "nested too deep"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "nested too deep"),
    "a memo number of 2 ** 70": (b"N" + b"p" + str(1 << 70).encode() + b"\n.", "out of range"),
    "an item of a list": (b"\x80\x02](K\x00Nu.", "items given to a list"),
    "an unknown opcode": (b"\x80\x02v.", "byte 2: unknown opcode 0x76"),
    "no end": (b"\x80\x02" + b"]" * 10, "1 bytes are declared, 0 are left"),
    "marks": (b"\x80\x02" + b"(" * 100_000 + b"t" * 99_999 + b".", "nested too deep"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_within_bounds(name: str) -> None:
    pickled, said = HOSTILE[name]
    began = time.process_time()
    tracemalloc.start(1)
    try:
        with pytest.raises((pickle.UnpicklingError, ValueError), match=said):
            unpickle(pickled)
        assert tracemalloc.get_traced_memory()[1] < 1e6 + 300 * len(pickled)
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 15  # tracing multiplies it


COSTLY: dict[str, Callable[[int], bytes]] = {
    "dropped names": lambda n: b"\x80\x02(" + b"".join(b"cm\nn%d\n" % i for i in range(n)) + b"l.",
    "sets": lambda n: b"\x80\x04(" + b"\x8f" * n + b"l.",
    "dictionaries": lambda n: b"\x80\x04(" + b"}NNs" * n + b"l.",
    "ordered dictionaries": lambda n: b"\x80\x04ccollections\nOrderedDict\nq\x00(" + b"h\x00)R" * n + b"l.",
    "memo entries": lambda n: b"\x80\x04" + b"N\x940" * n + b"N.",
    "arrays": lambda n: (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\n\x85q\x01(" + b"h\x00h\x01R" * n + b"l."
    ),
    "strings": lambda n: b"\x80\x02(" + text("\U0001f600" + "a" * 200) * n + b"l.",
}


@pytest.mark.parametrize("name", COSTLY)
def test_memory_and_time_are_linear_in_the_length(name: str) -> None:
    def cost(count: int) -> tuple[int, float, int]:
        pickled = COSTLY[name](count)
        began = time.process_time()
        unpickle_or_refuse(pickled)
        seconds = time.process_time() - began
        tracemalloc.start(1)
        try:
            unpickle_or_refuse(pickled)
            return len(pickled), seconds, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    for count in (1000, 8000):
        length, seconds, memory = cost(count)
        assert memory < 200_000 + 300 * length
        assert seconds < 0.5 + length * 20e-6


def unpickle_or_refuse(pickled: bytes) -> None:
    try:
        unpickle(pickled)
    except pickle.UnpicklingError as error:
        assert "too often" in str(error)


def test_a_pickle_of_too_many_opcodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_pickle, "OPCODES", 1000)
    assert unpickle(b"\x80\x02" + b"N0" * 400 + b"N.") == (None, [])
    with pytest.raises(pickle.UnpicklingError, match="more than 1,000 opcodes"):
        unpickle(b"\x80\x02" + b"N0" * 600 + b"N.")


def test_the_notes_on_dropped_names_are_bounded_in_what_is_shown(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path, TINY)
    path = folder / "7" / shard_name(0)
    with zipfile.ZipFile(path) as old:
        records = {info.filename: old.read(info) for info in old.infolist()}
    names = b"".join(b"cm\nn%05d\n0" % i for i in range(500))
    with zipfile.ZipFile(path, "w") as new:
        for name, content in records.items():
            changed = content[:2] + names + content[2:] if name.endswith("data.pkl") else content
            new.writestr(name, changed)
    notes = open_checkpoint(folder).notes
    assert len(notes) == 101
    assert notes[-1] == "and 400 more"


@pytest.mark.parametrize("which", ["data.pkl", "byteorder"])
def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, which: str) -> None:
    if which == "data.pkl":
        folder = zipped(tmp_path, b"\x80\x02" + b"N0" * (20 << 20) + b"N.", compressed=True)
    else:
        folder = zipped(tmp_path, b"\x80\x02N.", compressed=True, records={"byteorder": bytes(50 << 20)})
    tracemalloc.start(1)
    try:
        with pytest.raises(CheckpointError, match="compression"):
            open_checkpoint(folder)
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()


def test_zip_entries_that_overlap_are_refused(tmp_path: Path) -> None:
    folder = zipped(tmp_path, b"\x80\x02N.", records={f"data/{n}": bytes(1000) for n in range(20)})
    path = folder / "1" / shard_name(0)
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    while (at := content.find(b"PK\x01\x02", at + 4)) >= 0:
        content[at + 20 : at + 28] = struct.pack("<II", 20_000, 20_000)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="larger than the file"):
        open_checkpoint(folder)


def test_two_zip_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = zipped(tmp_path, b"\x80\x02N.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(folder / "1" / shard_name(0), "a") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="two entries of one name"):
        open_checkpoint(folder)


SMALL_STORAGE = torch.zeros(8)


@pytest.mark.parametrize(
    ("shape", "stride"),
    [((2, 4), (True, 1)), ((True, 4), (4, 1)), ((2.0, 4), (4, 1)), ((2,) * 100, (0,) * 100), ("24", (4, 1))],
    ids=str,
)
def test_shapes_and_strides_that_are_no_whole_numbers_are_refused(tmp_path: Path, shape: Any, stride: Any) -> None:
    class Made:
        def __reduce__(self) -> Any:
            arguments = (SMALL_STORAGE._typed_storage(), 0, shape, stride, False, {})
            return torch._utils._rebuild_tensor_v2, arguments

    path = tmp_path / "x.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"w": Made()}, path)
    with pytest.raises(CheckpointError, match="not made of whole numbers"):
        SavedFile(path)


@pytest.mark.parametrize("name", ["word_embeddings.weight", "position_embeddings.weight"])
def test_an_expanded_tensor_of_a_huge_shape_is_refused(tmp_path: Path, name: str) -> None:
    state = {**random_state(TINY), name: torch.zeros(1).expand(6, 1 << 40)}
    (tmp_path / "7").mkdir()
    (tmp_path / TRACKER).write_text("7")
    torch.save({"module": state}, tmp_path / "7" / shard_name(0))
    began = time.process_time()
    with pytest.raises(CheckpointError, match=r"hidden size 1099511627776|has shape"):
        open_checkpoint(tmp_path)
    assert time.process_time() - began < 2


def test_shared_dictionaries_do_not_multiply_names(tmp_path: Path) -> None:
    inner: dict[str, Any] = {"x" * 90: torch.zeros(1)}
    for n in range(5):
        inner = {f"{n}{c}" + "y" * 80: inner for c in "abcdefgh"}
    (tmp_path / "1").mkdir()
    (tmp_path / TRACKER).write_text("1")
    torch.save({"module": {**random_state(TINY), "again": inner}}, tmp_path / "1" / shard_name(0))
    tracemalloc.start(1)
    try:
        with pytest.raises(CheckpointError, match=r"more than 500 characters|unexpected tensor|nested too deep"):
            open_checkpoint(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


LIMITED = """
import resource, sys
import torch
from cpm_gen.checkpoints.formats import huggingface, megatron  # open_checkpoint imports them: before the limit
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.errors import CheckpointError
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 50_000_000,) * 2)
try:
    open_checkpoint(sys.argv[1])
except CheckpointError as error:
    print(error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_too_little_memory_is_a_checkpoint_error(tmp_path: Path) -> None:
    folder = zipped(tmp_path, b"\x80\x04(" + b"\x8f" * 2_000_000 + b"l.")
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(folder)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert "MemoryError" in result.stdout
