"""Write folders and files under a temporary name beside the target, and give them their own name when they are complete.

Whatever ends a write before that, Ctrl-C included, leaves nothing behind, and what had the target's name is still there. Contents are on
the disk before they get their name, and the name is when the write ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from cpm_gen.checkpoints.checkpoint import Checkpoint, verify_replicas
from cpm_gen.checkpoints.checksums import Checksum, verify_checksums
from cpm_gen.errors import CheckpointError, InputError

Progress = Callable[[str, int, int], None]  # what, tensors done, tensors in all


def no_progress(what: str, done: int, of: int) -> None:
    """Report nothing."""


def check_source(checkpoint: Checkpoint, *targets: Path, force: bool) -> None:
    """Check what costs no time before a checkpoint is written in another form.

    Raises CheckpointError for an ONNX file as the source, and InputError if a target exists (unless ``force``) or holds the source.
    """
    if checkpoint.is_onnx:
        raise CheckpointError(
            f"{checkpoint.folder}: an ONNX file holds no weights that can be converted; take the checkpoint that it was made from"
        )
    for target in targets:
        check_target(target, (checkpoint.folder, *checkpoint.files), force=force)


def check_target(target: Path, sources: Iterable[Path], *, force: bool) -> None:
    """Check a target that is written from ``sources``; raises InputError if it exists (unless ``force``) or holds one of them."""
    at = Path(os.path.realpath(target))
    for source in sources:
        read = Path(os.path.realpath(source))
        if at in (read, *read.parents):
            raise InputError(f"{target}: source and target are the same folder, or the target holds the source")
    if os.path.lexists(target) and not force:
        raise InputError(f"{target}: exists already; remove it, or give --force to replace it")


def verify_source(checkpoint: Checkpoint, checksums: Sequence[Checksum] = ()) -> None:
    """Read all weights and check replicas and checksums; raises CheckpointError. checksums: instead of the checkpoint's."""
    verify_replicas(checkpoint)
    verify_checksums(checksums or checkpoint.checksums)


@contextlib.contextmanager
def new_folder(target: Path, needed: int) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` at the end. needed: bytes that the disk must have.

    Raises InputError if the disk has too little room, or the system refuses to write.
    """
    work = _temporary(target, needed)
    try:
        yield work
        work.chmod(0o777 & ~_umask())
        _flush(work)
        _replace(work, target)
        flush_entry(target.parent)
    except OSError as error:
        raise InputError(f"{target}: could not be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextlib.contextmanager
def new_files(target: Path, needed: int) -> Iterator[Path]:
    """A temporary folder whose files are moved beside it at the end, that of ``target``'s name last. Else as :func:`new_folder`."""
    work = _temporary(target, needed)
    try:
        yield work
        _flush(work)
        for path in sorted(work.iterdir(), key=lambda path: path.name == target.name):
            path.replace(target.with_name(path.name))
        flush_entry(target.parent)
    except OSError as error:
        raise InputError(f"{target}: could not be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _temporary(target: Path, needed: int) -> Path:
    folder = target.parent
    try:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise InputError(f"{folder}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free on that disk")
        return Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=folder))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}") from None


def _replace(work: Path, target: Path) -> None:
    """Rename ``work`` to ``target``; what had that name before (with --force) is removed only after that."""
    if not os.path.lexists(target):
        work.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    old = aside / "old"
    try:
        target.rename(old)
        work.rename(target)
    except BaseException:  # includes Ctrl-C
        if os.path.lexists(old) and not os.path.lexists(target):
            old.rename(target)
        raise
    finally:
        if os.path.lexists(target):
            shutil.rmtree(aside, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Write a folder and all in it to the disk: after a power cut a name must not stand for a file without its contents."""
    for at, _, names in os.walk(folder):
        for path in (*(Path(at, name) for name in names), Path(at)):
            flush_entry(path)


def flush_entry(path: Path) -> None:
    """Write a file, or the names in a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
