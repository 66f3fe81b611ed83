"""Write a checkpoint as shards for another number of ranks (original: ``change_mp.py``); see :mod:`cpm_gen.checkpoints.convert`."""

from __future__ import annotations

from pathlib import Path

from cpm_gen.checkpoints.convert import Beside, convert
from cpm_gen.checkpoints.publish import Progress, no_progress
from cpm_gen.config.arguments import path_argument, shown, whole_number
from cpm_gen.config.options import ModelOptions
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.runtime.conversions import vocabulary_files


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
    progress: Progress = no_progress,
) -> Path:
    """Write the checkpoint in ``source`` for ``degree`` ranks, with the vocabulary that lies with it; returns the folder written.

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
    target = target or default_target(source, degree)
    # an absolute path, because a folder may be called "embedded"
    beside = Beside(vocabulary_files(ModelOptions(model=str(source.absolute()))))
    return convert(source, target, "shards", degree=degree, heads=heads, force=force, beside=beside, progress=progress)
