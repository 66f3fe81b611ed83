"""The records of a zip file that ``torch.save`` wrote: where each lies and its checksum. Nothing is decompressed."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO

from cpm_gen.checkpoints.checksums import Checksum
from cpm_gen.errors import CheckpointError

_LOCAL = struct.Struct("<4s5H3I2H")
_ENCRYPTED, _SIZES_FOLLOW = 0x2041, 0x8  # flags: encrypted in any way; CRC and sizes stand after the record, too
_IN_EXTRA = 0xFFFFFFFF  # a size that stands in a zip64 field


class ZipRecords:
    """The zip file's directory. Memory and time are linear in its length.

    root: the folder in the zip file that holds all records, with its slash. has_checksums: False if
    ``torch.serialization.set_crc32_options(False)`` was in effect when the file was written: it then stores zeros.
    """

    def __init__(self, path: Path, file: IO[bytes], size: int) -> None:
        """size: of the file in bytes. Raises CheckpointError, or BadZipFile and others if the directory is damaged."""
        self._path, self._file, self._size = path, file, size
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        self._entries = {entry.filename: entry for entry in entries}
        if len(self._entries) < len(entries):
            raise CheckpointError(f"{path}: a damaged zip file: two entries of one name")
        if sum(entry.compress_size for entry in entries) > size:
            raise CheckpointError(f"{path}: a damaged zip file: its entries are larger than the file")
        pickles = [name for name in self._entries if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError(f"{path}: a zip file, but not one that torch.save wrote (no data.pkl)")
        self.root = pickles[0].removesuffix("data.pkl")
        self.has_checksums = any(entry.CRC for entry in entries)

    def find(self, name: str) -> Checksum | None:
        """The record ``name`` below the root; None if there is none.

        Raises CheckpointError if it is compressed or encrypted, or if the header before it says something else than the
        directory.
        """
        entry = self._entries.get(self.root + name)
        if entry is None:
            return None
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise CheckpointError(
                f"{self._path}: the file was re-packed with compression, which torch.save never does; unpack it and save it "
                "again with torch.save"
            )
        self._file.seek(entry.header_offset)
        sign, _, flags, method, _, _, crc, compressed, size, name_length, extra = _LOCAL.unpack(
            self._file.read(_LOCAL.size).ljust(_LOCAL.size, b"\0")
        )
        same_name = self._file.read(name_length) == entry.orig_filename.encode(
            "utf-8" if entry.flag_bits & 0x800 else "cp437"
        )
        later = bool(flags & _SIZES_FOLLOW)
        agree = (
            sign == b"PK\3\4"
            and same_name
            and method == entry.compress_type
            and not (flags | entry.flag_bits) & _ENCRYPTED
            and (crc == entry.CRC or (later and crc == 0))
            and all(n in (entry.file_size, _IN_EXTRA) or (later and n == 0) for n in (compressed, size))
        )
        begin = entry.header_offset + _LOCAL.size + name_length + extra
        if not agree or begin + entry.file_size > self._size:
            raise CheckpointError(
                f"{self._path}: damaged: the header of {name!a:.60} disagrees with the zip file's directory"
            )
        return Checksum(self._path, name, begin, entry.file_size, entry.CRC)

    def read(self, name: str, most: int) -> bytes | None:
        """The bytes of a record of at most ``most`` bytes, verified; None if there is none."""
        record = self.find(name)
        if record is None:
            return None
        if record.length > most:
            raise CheckpointError(f"{self._path}: damaged: {name} has {record.length:,} bytes, more than {most:,}")
        self._file.seek(record.offset)
        content = self._file.read(record.length)
        if self.has_checksums and zlib.crc32(content) != record.crc32:
            raise CheckpointError(f"{self._path}: damaged or truncated: {name} is not what was saved (CRC-32 differs)")
        return content
