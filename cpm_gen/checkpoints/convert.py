"""Write a checkpoint of any format as a Hugging Face folder, as CPM's shards, or as shards in safetensors.

The source's checksums are verified first. Of a Hugging Face folder or of safetensors one tensor is in memory at a time, of other shards
one shard. The result is written under a temporary name, read back and compared bit for bit, and then renamed: a target folder is
complete or absent. The vocabulary is copied if the caller names its files; config.json says how a network differs from CPM-1's, and where a
vocabulary ends that does not divide.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from cpm_gen.checkpoints.attention_heads import known_or_configured_heads, resolve_heads
from cpm_gen.checkpoints.checkpoint import Checkpoint, bits
from cpm_gen.checkpoints.formats import huggingface, huggingface_writer, megatron_writer
from cpm_gen.checkpoints.formats.megatron import MegatronCheckpoint, open_shards
from cpm_gen.checkpoints.locate import open_checkpoint
from cpm_gen.checkpoints.network_config import CONFIG
from cpm_gen.checkpoints.publish import Progress, check_source, new_folder, no_progress, verify_source
from cpm_gen.checkpoints.tensor_to_write import read_slice
from cpm_gen.errors import CheckpointError, ConfigError, InputError

Kind = Literal["hf", "shards", "safetensors"]
_OF_HUGGING_FACE = ("generation_config.json",)


@dataclass(frozen=True)
class Beside:
    """Small files for the target, by their names there. files: that are copied, such as a vocabulary's. texts: that are written.

    token_ids: for config.json of a Hugging Face folder.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    token_ids: Mapping[str, int | None] = field(default_factory=dict)


def convert(
    source: Path,
    target: Path,
    to: Kind,
    *,
    degree: int = 1,
    dtype: torch.dtype | None = None,
    heads: int | None = None,
    force: bool = False,
    beside: Beside | None = None,
    iteration: str | None = None,
    shard_bytes: int = huggingface_writer.SHARD_BYTES,
    progress: Progress = no_progress,
) -> Path:
    """Write the checkpoint in ``source`` to the folder ``target``, and return that.

    degree: ranks that shards are for. dtype: to convert to; None: each tensor keeps its own. iteration: name of the folder that
    shards are in; None: the source's. shard_bytes: most bytes of tensors in a
    file of a Hugging Face folder. Raises CheckpointError for a damaged source, an impossible degree or heads that are not known,
    InputError if the target exists (unless ``force``), holds the source, or the disk is full.
    """
    opened = _open(source)
    checkpoint = opened.checkpoint
    if iteration is not None:
        checkpoint = dataclasses.replace(checkpoint, iteration=iteration)
    check_source(checkpoint, target, force=force)
    if to == "hf" and degree != 1:
        raise ConfigError("a Hugging Face folder holds whole tensors: leave the number of ranks out")
    if to == "hf" or heads is not None:
        heads = resolve_heads(checkpoint, heads)
    checkpoint.check_degree(degree, heads or known_or_configured_heads(checkpoint))
    verify_source(checkpoint, [c for shard in opened.shards for c in shard.checksums])
    beside = beside or Beside()
    run = _Run(checkpoint, degree, dtype, progress)
    with new_folder(target, sum(path.stat().st_size for path in checkpoint.files)) as work:
        if to == "hf":
            assert heads is not None
            huggingface_writer.write_folder(
                checkpoint,
                heads,
                lambda name, transposed: run.read(name, 0, transposed),
                run.dtype_of,
                work,
                token_ids=beside.token_ids,
                shard_bytes=shard_bytes,
            )
        elif to == "safetensors":
            megatron_writer.write_safetensors_shards(checkpoint, degree, run.read, run.dtype_of, work)
        else:
            megatron_writer.write_shards(checkpoint, opened.shards, degree, run.read, work)
        _copy_companions(checkpoint, beside, to, work)
        run.verify(work)
    return target


def _open(source: Path) -> MegatronCheckpoint:
    """The source; only CPM's shards have shards."""
    if source.is_file() or huggingface.is_huggingface(source):
        return MegatronCheckpoint(open_checkpoint(source), [])
    return open_shards(source)


def _copy_companions(checkpoint: Checkpoint, beside: Beside, to: Kind, work: Path) -> None:
    found = {name: checkpoint.folder / name for name in (_OF_HUGGING_FACE if to == "hf" else ())}
    for name, companion in {**{n: path for n, path in found.items() if path.is_file()}, **beside.files}.items():
        try:
            shutil.copyfile(companion, work / name)
        except PermissionError as error:
            raise InputError(f"{companion}: {error.strerror}") from None
    for name, text in beside.texts.items():
        (work / name).write_text(text, encoding="utf-8")


class _Run:
    """Reads the slices that are written, and compares them with what was written."""

    def __init__(self, checkpoint: Checkpoint, degree: int, dtype: torch.dtype | None, progress: Progress) -> None:
        self._checkpoint, self._degree, self._dtype, self._progress = checkpoint, degree, dtype, progress
        self._done = 0
        self._all = degree * len(checkpoint.tensors)

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype that a tensor is written in."""
        return self._dtype or self._checkpoint.tensors[name].dtype

    def read(self, name: str, rank: int, transposed: bool = False) -> Tensor:
        """What a rank holds of a tensor."""
        values = read_slice(self._checkpoint, name, rank, self._degree, self.dtype_of(name), transposed=transposed)
        self._count("writing")
        return values

    def _count(self, what: str) -> None:
        self._done += 1
        self._progress(what, self._done, self._all)

    def verify(self, work: Path) -> None:
        """Compare every rank's slices in ``work`` with the source, bit for bit; raises CheckpointError."""
        source, written = self._checkpoint, open_checkpoint(work)
        if (written.variant, written.vocabulary, written.degree) != (source.variant, source.vocabulary, self._degree):
            raise CheckpointError(f"{work / CONFIG}: does not describe the network that was read")
        self._done = 0
        for rank in range(self._degree):
            for name in source.tensors:
                shards = written.tensors[name].shards
                stored = shards[rank if len(shards) > 1 else 0]
                result, filled = stored.view(), 0
                for part in source.slice_parts(name, rank, self._degree):
                    within, wanted = part.within(result), part.view().to(self.dtype_of(name))
                    if within.dtype != wanted.dtype or not torch.equal(bits(within), bits(wanted)):
                        raise CheckpointError(
                            f"{stored.path.name}: {name} was not written as it was read; is the disk sound?"
                        )
                    filled += within.numel()
                    part.stored.release()
                if filled < result.numel() and result.flatten()[filled:].any():
                    raise CheckpointError(f"{stored.path.name}: {name} was not padded with zeros; is the disk sound?")
                stored.release()
                self._count("verifying")
