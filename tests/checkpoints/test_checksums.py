"""Weights that differ from what was saved are found: while loading, while resharding, and by ``inspect --verify``."""

import struct
import threading
import time
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from cpm_gen.checkpoints.checksums import Checksum, VerifyBeside, verify_checksums
from cpm_gen.checkpoints.formats.megatron_layout import shard_name
from cpm_gen.checkpoints.inspect import describe
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.cli.inspect_table import to_text
from cpm_gen.cli.main import main
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import CheckpointError
from cpm_gen.runtime.loaded_model import LoadedModel
from cpm_gen.runtime.plan import Machine, plan_load
from cpm_gen.runtime.reshard import reshard
from tests.random_networks import random_checkpoint

RANK1 = r"mp_rank_01_model_states\.pt"


def damage(folder: Path, rank: int = 1, record: str = "data/6") -> None:
    """Change one bit of a record."""
    path = folder / "7" / shard_name(rank)
    with zipfile.ZipFile(path) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith(record))
    content = bytearray(path.read_bytes())
    name, extra = struct.unpack("<HH", content[entry.header_offset + 26 : entry.header_offset + 30])
    content[entry.header_offset + 30 + name + extra + entry.file_size // 2] ^= 1
    path.write_bytes(content)


def test_a_checkpoint_knows_the_checksum_of_every_weight(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path, degree=2))
    assert len(checkpoint.checksums) == 2 * len(checkpoint.tensors)
    for checksum in checkpoint.checksums:
        content = checksum.path.read_bytes()[checksum.offset : checksum.offset + checksum.length]
        assert zlib.crc32(content) == checksum.crc32
    verify_checksums(checkpoint.checksums)


def test_one_changed_bit_is_found_while_loading(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path, degree=2)
    options = ModelOptions(model=str(folder), kernels="torch", threads=1, tensor_parallel=1)
    LoadedModel.start(plan_load(options, Machine.detect())).close()
    damage(folder)
    with pytest.raises(CheckpointError, match=rf"{RANK1}: the bytes of 'data/6' have CRC-32 .* the file is damaged"):
        LoadedModel.start(plan_load(options, Machine.detect()))


def test_one_changed_bit_is_found_while_resharding(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "net", degree=2)
    damage(folder)
    with pytest.raises(CheckpointError, match=rf"{RANK1}: the bytes of"):
        reshard(folder, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["net"]


def test_inspect_verifies_if_asked_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = random_checkpoint(tmp_path, degree=2)
    checkpoint = open_checkpoint(folder)
    records = len(checkpoint.checksums)
    assert describe(checkpoint)["checksums"] == {"stored": records, "verified": False}
    verified = describe(checkpoint, verify=True)
    assert verified["checksums"] == {"stored": records, "verified": True}
    assert f"checksums   {records} records are as they were saved\n" in to_text(verified)
    damage(folder)
    assert describe(open_checkpoint(folder))
    assert main(["inspect", str(folder)]) == 0
    assert main(["inspect", str(folder), "--verify"]) == 2
    assert "CRC-32" in capsys.readouterr().err


@pytest.mark.parametrize("record", ["data.pkl", "byteorder"])
def test_a_changed_bit_of_a_header_record_is_found_when_opening(tmp_path: Path, record: str) -> None:
    folder = random_checkpoint(tmp_path, degree=2)
    damage(folder, record=record)
    with pytest.raises(CheckpointError, match=rf"{RANK1}: damaged or truncated: {record} is not what was saved"):
        open_checkpoint(folder)


def headers(path: Path) -> list[int]:
    with zipfile.ZipFile(path) as archive:
        return [e.header_offset for e in archive.infolist() if "/data/" in e.filename]


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"PK\x07\x08"),
        (6, b"\x09\x08"),
        (8, b"\x08\0"),
        (14, b"abcd"),
        (18, b"abcd"),
        (22, b"abcd"),
        (28, b"\xff\xff"),
    ],
    ids=["signature", "encrypted", "method", "crc", "compressed size", "size", "length of the extra field"],
)
def test_a_local_header_that_disagrees_with_the_directory_is_refused(tmp_path: Path, at: int, value: bytes) -> None:
    folder = random_checkpoint(tmp_path)
    path = folder / "7" / shard_name(0)
    content = bytearray(path.read_bytes())
    begin = headers(path)[-1]
    content[begin + at : begin + at + len(value)] = value
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"the header of 'data/\d+' disagrees with the zip file's directory"):
        open_checkpoint(folder)


def test_another_name_in_a_local_header_is_refused(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    path = folder / "7" / shard_name(0)
    content = bytearray(path.read_bytes())
    content[headers(path)[3] + 30] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="disagrees with"):
        open_checkpoint(folder)


def test_files_without_checksums_open(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    path = folder / "7" / shard_name(0)
    content = torch.load(path)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(content, path)
    finally:
        torch.serialization.set_crc32_options(True)
    without = describe(open_checkpoint(folder), verify=True)
    assert without["checksums"] == {"stored": 0, "verified": False}
    assert "checksums   none in the files\n" in to_text(without)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert open_checkpoint(folder).checksums == []


def test_the_threads_stop_if_the_load_fails(tmp_path: Path) -> None:
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.truncate(4 << 30)  # sparse; reading it takes seconds
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), VerifyBeside([Checksum(path, "x", 0, 4 << 30, 0)], threads=1):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 2
    assert not [t for t in threading.enumerate() if t.name.startswith("checksum")]


def test_a_file_that_became_shorter_is_named(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(random_checkpoint(tmp_path))
    path = checkpoint.files[0]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="the file ends before its tensors do"):
        verify_checksums(checkpoint.checksums)
    path.unlink()
    with pytest.raises(CheckpointError, match="No such file"):
        verify_checksums(checkpoint.checksums)
