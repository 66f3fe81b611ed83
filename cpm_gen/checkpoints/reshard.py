"""Write a checkpoint on disk for another number of ranks (original: ``change_mp.py``).

The source's checksums are verified first. One output shard is in memory at a time, and every tensor gets compact storage of its
own. What DeepSpeed stores besides the network is copied from the source rank in which the target rank's slices begin. The result
is written under a temporary name, read back and compared bit for bit, and then renamed: a target folder is complete or absent.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpm_gen.checkpoints import tensor_table
from cpm_gen.checkpoints.attention_heads import known_or_configured_heads, resolve_heads
from cpm_gen.checkpoints.checkpoint import Checkpoint, bits, verify_replicas
from cpm_gen.checkpoints.checksums import verify_checksums
from cpm_gen.checkpoints.formats.known_globals import Dropped
from cpm_gen.checkpoints.formats.megatron import Shard, open_shards, without_dropped
from cpm_gen.checkpoints.formats.megatron_layout import TRACKER, shard_name
from cpm_gen.checkpoints.formats.torch_file import TensorRef
from cpm_gen.config.arguments import path_argument, shown, whole_number
from cpm_gen.errors import CheckpointError, ConfigError, InputError

_COMPANIONS = ("config.json", "chinese_vocab.model", "vocab.json")  # small files that are copied with a checkpoint

Progress = Callable[[str, int, int], None]


def default_target(source: Path, degree: int) -> Path:
    """The target that the original script uses: for ``/path/to/CPM`` at degree 4, ``/path/to/CPM_MP4``."""
    source = source.resolve() if source.name in ("", ".", "..") else source
    if not source.name:
        raise InputError(f"{source}: give --output, there is no folder beside the root")
    return source.with_name(f"{source.name}_MP{degree}")


def reshard(
    source: str | Path,
    degree: int,
    target: str | Path | None = None,
    *,
    heads: int | None = None,
    force: bool = False,
    progress: Progress = lambda *_: None,
) -> Path:
    """Write the checkpoint in ``source`` for ``degree`` ranks; returns the folder written.

    progress is called with (what, tensors done, tensors in all). Raises CheckpointError for a damaged source or an
    impossible degree; InputError if ``degree`` is no whole number, a folder's name is empty, the target exists (unless
    ``force``) or the disk is full. Peak memory: one output shard.
    """
    source = path_argument(source, "the checkpoint folder")
    degree = whole_number(degree, "the number of ranks")  # its bounds: check_degree
    heads = None if heads is None else whole_number(heads, "heads", 1, ConfigError)
    target = None if target is None else path_argument(target, "the target folder")
    if not callable(progress):
        raise ConfigError(f"progress must be a function, not {shown(progress)}")
    opened = open_shards(source)
    checkpoint = opened.checkpoint
    source = checkpoint.folder
    target = default_target(source, degree) if target is None else target
    if heads is not None:
        resolve_heads(checkpoint, heads)
    tensor_table.check_degree(
        degree,
        vocabulary=checkpoint.vocabulary,
        heads=heads or known_or_configured_heads(checkpoint),
        hidden=checkpoint.hidden,
        where=str(source),
    )
    read = {source.resolve(), *(path.resolve() for path in checkpoint.files)}
    if any(target.resolve() in (path, *path.parents) for path in read):
        raise InputError(f"{target}: source and target are the same folder, or the target holds the source")
    if os.path.lexists(target) and not force:
        raise InputError(f"{target}: exists already; remove it, or give --force to replace it")
    verify_replicas(checkpoint)
    verify_checksums([checksum for shard in opened.shards for checksum in shard.saved.checksums])
    try:
        _check_space(checkpoint, target.parent)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise InputError(f"{target.parent}: {error.strerror or error}") from None
    try:
        _write(checkpoint, opened.shards, degree, work, progress)
        _verify(checkpoint, degree, work, progress)
        work.chmod(0o755 & ~_umask())
        _replace(work, target)
    except OSError as error:
        raise InputError(f"{target}: could not be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _write(checkpoint: Checkpoint, shards: list[Shard], degree: int, work: Path, progress: Progress) -> None:
    directory = work / checkpoint.iteration
    directory.mkdir()
    names = list(tensor_table.names(checkpoint.layers))
    for rank in range(degree):
        shard = shards[rank * checkpoint.degree // degree]
        fresh: dict[int, Tensor] = {}
        for n, name in enumerate(names):
            ref = shard.tensors[name]
            fresh[id(ref)] = torch.empty(checkpoint.slice_shape(name, degree), dtype=ref.dtype)
            checkpoint.copy_slice(name, rank, degree, fresh[id(ref)])
            progress("writing", rank * len(names) + n + 1, degree * len(names))
        content: dict[str, Any] = without_dropped(_with(shard.content, fresh, shard.ignored))
        if "mp_world_size" in content:
            content["mp_world_size"] = degree
        with (directory / shard_name(rank)).open("wb") as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:  # torch's writer hides the system's error message
                raise InputError(f"{file.name}: could not be written ({str(error).splitlines()[0]})") from None
            file.flush()
            os.fsync(file.fileno())
    (work / TRACKER).write_text(checkpoint.iteration, encoding="utf-8")
    for name in _COMPANIONS:
        companion = checkpoint.folder / name
        if companion.is_file():
            try:
                shutil.copyfile(companion, work / name)
            except PermissionError as error:
                raise InputError(f"{companion}: {error.strerror}") from None


def _with(value: Any, fresh: dict[int, Tensor], ignored: frozenset[int]) -> Any:
    """``value`` with the network's tensors replaced; its nesting, key order and types stay as they are.

    ignored: ids of tensors that are left out.
    """
    if isinstance(value, TensorRef):
        return Dropped() if id(value) in ignored else fresh.get(id(value), value)
    if isinstance(value, dict):
        return type(value)((k, _with(v, fresh, ignored)) for k, v in value.items())
    return value


def _verify(checkpoint: Checkpoint, degree: int, work: Path, progress: Progress) -> None:
    names = list(tensor_table.names(checkpoint.layers))
    for rank, shard in enumerate(open_shards(work).shards):
        for n, name in enumerate(names):
            ref = shard.tensors[name]
            result = ref.view()
            for part in checkpoint.slice_parts(name, rank, degree):
                if not torch.equal(bits(part.within(result)), bits(part.view())):
                    raise CheckpointError(
                        f"{shard.path.name}: {name} was not written as it was read; is the disk sound?"
                    )
                part.stored.release()
            ref.release()
            progress("verifying", rank * len(names) + n + 1, degree * len(names))


def _check_space(checkpoint: Checkpoint, folder: Path) -> None:
    needed = sum(path.stat().st_size for path in checkpoint.files)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"{folder}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free on that disk")


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
