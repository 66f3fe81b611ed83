"""Write a checkpoint on disk for another number of ranks (original: ``change_mp.py``): shards, or a Hugging Face folder into shards.

The source's checksums are verified first. One output shard is in memory at a time, and every tensor gets compact storage of its
own. What DeepSpeed stores besides the network is copied from the source rank in which the target rank's slices begin. config.json and
vocabularies are copied, too: config.json says how a network differs from CPM-1's, and where a vocabulary ends that does not divide. The
result is written under a temporary name, read back and compared bit for bit, and then renamed: a target folder is complete or absent.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cpm_gen.checkpoints.attention_heads import known_or_configured_heads, resolve_heads
from cpm_gen.checkpoints.checkpoint import Checkpoint, bits, verify_replicas
from cpm_gen.checkpoints.checksums import verify_checksums
from cpm_gen.checkpoints.formats import huggingface
from cpm_gen.checkpoints.formats.known_globals import Dropped
from cpm_gen.checkpoints.formats.mapped_file import TensorRef
from cpm_gen.checkpoints.formats.megatron import MegatronCheckpoint, Shard, open_shards, without_dropped
from cpm_gen.checkpoints.formats.megatron_layout import TRACKER, shard_name
from cpm_gen.checkpoints.network_config import CONFIG, read_config
from cpm_gen.config.arguments import path_argument, shown, whole_number
from cpm_gen.errors import CheckpointError, ConfigError, InputError

# small files that are copied with a checkpoint; config.json is written (_write_config)
_COMPANIONS = (
    *("chinese_vocab.model", "vocab.json", "spiece.model", "vocab.txt", "merges.txt", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)

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
    opened = _open(source)
    checkpoint = opened.checkpoint
    source = checkpoint.folder
    target = default_target(source, degree) if target is None else target
    if heads is not None:
        resolve_heads(checkpoint, heads)
    checkpoint.check_degree(degree, heads or known_or_configured_heads(checkpoint))
    read = {source.resolve(), *(path.resolve() for path in checkpoint.files)}
    if any(target.resolve() in (path, *path.parents) for path in read):
        raise InputError(f"{target}: source and target are the same folder, or the target holds the source")
    if os.path.lexists(target) and not force:
        raise InputError(f"{target}: exists already; remove it, or give --force to replace it")
    verify_replicas(checkpoint)
    verify_checksums([c for shard in opened.shards for c in shard.checksums] or checkpoint.checksums)
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


def _open(source: Path) -> MegatronCheckpoint:
    """The source; a Hugging Face folder has no shards."""
    if huggingface.is_huggingface(source):
        return MegatronCheckpoint(huggingface.open_folder(source), [])
    return open_shards(source)


def _write(checkpoint: Checkpoint, shards: list[Shard], degree: int, work: Path, progress: Progress) -> None:
    directory = work / checkpoint.iteration
    directory.mkdir()
    names = list(checkpoint.tensors)
    for rank in range(degree):
        slices: dict[str, Tensor] = {}
        for n, name in enumerate(names):
            slices[name] = torch.empty(checkpoint.slice_shape(name, degree), dtype=checkpoint.tensors[name].dtype)
            checkpoint.copy_slice(name, rank, degree, slices[name])
            progress("writing", rank * len(names) + n + 1, degree * len(names))
        if shards:
            shard = shards[rank * checkpoint.degree // degree]
            fresh = {id(shard.tensors[name]): values for name, values in slices.items()}
            content: dict[str, Any] = without_dropped(_with(shard.content, fresh, shard.ignored))
            if "mp_world_size" in content:
                content["mp_world_size"] = degree
        else:
            content = {"module": slices, "mp_world_size": degree}
        with (directory / shard_name(rank)).open("wb") as file:
            try:
                torch.save(content, file)
            except RuntimeError as error:  # torch's writer hides the system's error message
                raise InputError(f"{file.name}: could not be written ({str(error).splitlines()[0]})") from None
            file.flush()
            os.fsync(file.fileno())
    (work / TRACKER).write_text(checkpoint.iteration, encoding="utf-8")
    _write_config(checkpoint, degree, work)
    for name in _COMPANIONS:
        companion = checkpoint.folder / name
        if companion.is_file():
            try:
                shutil.copyfile(companion, work / name)
            except PermissionError as error:
                raise InputError(f"{companion}: {error.strerror}") from None


def _write_config(checkpoint: Checkpoint, degree: int, work: Path) -> None:
    """Copy config.json, completed by what the shards alone do not tell: padding rows, and that a head is not tied."""
    config = read_config(checkpoint.folder)
    content = {} if config is None else config.content
    needed: dict[str, Any] = {}
    if checkpoint.vocabulary % degree:
        needed["vocab_size"] = checkpoint.vocabulary
    if not checkpoint.variant.tied_head:
        needed["tie_word_embeddings"] = False
    target = work / CONFIG
    if any(content.get(name) != value for name, value in needed.items()):
        target.write_text(json.dumps({**content, **needed}, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    elif config is not None:
        shutil.copyfile(config.path, target)


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
    names = list(checkpoint.tensors)
    written = open_shards(work)
    if (written.checkpoint.variant, written.checkpoint.vocabulary) != (checkpoint.variant, checkpoint.vocabulary):
        raise CheckpointError(f"{work / CONFIG}: does not describe the network that was read")
    for rank, shard in enumerate(written.shards):
        for n, name in enumerate(names):
            ref = shard.tensors[name]
            result = ref.view()
            filled = 0
            for part in checkpoint.slice_parts(name, rank, degree):
                if not torch.equal(bits(part.within(result)), bits(part.view())):
                    raise CheckpointError(
                        f"{shard.path.name}: {name} was not written as it was read; is the disk sound?"
                    )
                filled += part.within(result).numel()
                part.stored.release()
            if result.flatten()[filled:].any():
                raise CheckpointError(f"{shard.path.name}: {name} was not padded with zeros; is the disk sound?")
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
