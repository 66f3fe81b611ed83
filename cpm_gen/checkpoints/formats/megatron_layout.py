"""Where a checkpoint's shards lie: CPM's folders, and those that DeepSpeed and Megatron-LM write.

===========  ===================================  ==================================================
who writes   tracker                              shard of rank 3
===========  ===================================  ==================================================
CPM          latest_checkpointed_iteration.txt    ``<iteration>/mp_rank_03_model_states.pt``
DeepSpeed    latest                               ``global_step<iteration>/mp_rank_03_model_states.pt``
Megatron-LM  latest_checkpointed_iteration.txt    ``iter_<iteration>/mp_rank_03/model_optim_rng.pt``
===========  ===================================  ==================================================

A folder of shards can also be given itself. In any of them, a rank's shard can be ``mp_rank_03.safetensors``; if there are such, they
are read and the others are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cpm_gen.checkpoints.locate import UNFINISHED_RUN, no_such_folder
from cpm_gen.checkpoints.small_files import read_small_text
from cpm_gen.errors import CheckpointError

TRACKER = "latest_checkpointed_iteration.txt"
_DEEPSPEED_TRACKER = "latest"
_TRACKER_BYTES = 4096
_SHARD = re.compile(r"mp_rank_([0-9]+)_model_states\.pt")
_SAFETENSORS_SHARD = re.compile(r"mp_rank_([0-9]+)\.safetensors")
_SHARD_FOLDER = re.compile(r"mp_rank_([0-9]+)")
_IN_SHARD_FOLDER = ("model_optim_rng.pt", "model_rng.pt")
_ITERATION = re.compile(r"release|[0-9]{1,18}")
_STEP_FOLDER = re.compile(r"(?:global_step|iter_)?([0-9]{1,18})")
ZERO_3 = (
    "DeepSpeed's ZeRO stage 3 spread the weights over several files; join them with zero_to_fp32.py, which DeepSpeed writes "
    "beside the checkpoint, and name the result mp_rank_00_model_states.pt"
)


@dataclass(frozen=True)
class Layout:
    """folder: that of the tracker and of companion files. iteration: digits or "release". directory: of the shards.

    files: of the ranks, in rank order.
    """

    folder: Path
    iteration: str
    directory: Path
    files: list[Path]


def shard_name(rank: int) -> str:
    """File name of a rank's shard."""
    return f"mp_rank_{rank:02d}_model_states.pt"


def safetensors_shard_name(rank: int) -> str:
    """File name of a rank's shard in safetensors."""
    return f"mp_rank_{rank:02d}.safetensors"


def holds_shards(folder: Path) -> bool:
    """Whether a folder has a tracker, or holds shards itself."""
    trackers = any((folder / name).exists() for name in (TRACKER, _DEEPSPEED_TRACKER))
    return trackers or any(_is_shard(path) for path in folder.iterdir())


def step_folders(folder: Path) -> list[str]:
    """Names of the folders in a folder that can be of an iteration."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and _STEP_FOLDER.fullmatch(path.name))


def find(folder: Path) -> Layout:
    """The shards under ``folder``. Raises CheckpointError: nothing found, a shard missing, two files for one rank."""
    try:
        where, iteration, directory = _directory(folder)
        return Layout(where, iteration, directory, _files(directory))
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror or error}") from None


def _directory(folder: Path) -> tuple[Path, str, Path]:
    """The checkpoint's folder, the iteration, and the folder of its shards."""
    if not folder.exists():
        raise no_such_folder(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: not a folder; --model takes the folder of a checkpoint")
    if (folder / TRACKER).exists():
        return folder, *_tracked(folder)
    if any(_is_shard(path) for path in folder.iterdir()):
        return _given_itself(folder)
    if (folder / _DEEPSPEED_TRACKER).exists():
        return folder, *_tracked_by_deepspeed(folder)
    if steps := step_folders(folder):
        some = ", ".join(str(folder / step) for step in steps[-3:])
        raise CheckpointError(
            f"{folder}: no {TRACKER} there that names the iteration; give a folder of shards itself: {some}"
        )
    if (folder / UNFINISHED_RUN).is_file():
        raise CheckpointError(
            f"{folder}: a cpm-gen finetune that has not ended; cpm-gen finetune --resume --output {folder} continues it"
        )
    raise CheckpointError(
        f"{folder}: no {TRACKER} there, so no CPM checkpoint, and no config.json, so no Hugging Face folder"
    )


def _given_itself(directory: Path) -> tuple[Path, str, Path]:
    """The shards' own folder was given; its parent has the companion files if it has a tracker."""
    name, parent = directory.resolve().name, directory.resolve().parent
    step = _STEP_FOLDER.fullmatch(name)
    iteration = "release" if step is None else name if name.isdecimal() else str(int(step[1]))
    if step is None and name != "release":
        return directory, iteration, directory
    if step is None or name.isdecimal():
        return (parent if (parent / TRACKER).is_file() else directory), iteration, directory
    tracked = any((parent / tracker).is_file() for tracker in (TRACKER, _DEEPSPEED_TRACKER))
    return (parent if tracked and not (directory / "config.json").exists() else directory), iteration, directory


def _tracked(folder: Path) -> tuple[str, Path]:
    """What CPM's and Megatron-LM's tracker names; a tracker made by hand can name DeepSpeed's folder, too."""
    tracker, purpose = folder / TRACKER, "must hold an iteration or 'release'"
    word = read_small_text(tracker, _TRACKER_BYTES, purpose).strip()
    if not _ITERATION.fullmatch(word):
        raise CheckpointError(f"{tracker}: {purpose}, not {word[:40]!r}")
    names = [word] if word == "release" else [word, f"global_step{word}", f"iter_{int(word):07d}"]
    for name in names:
        if (folder / name).is_dir():
            return word, folder / name
    raise CheckpointError(f"{tracker}: names iteration {word}, but there is no folder {folder / word}")


def _tracked_by_deepspeed(folder: Path) -> tuple[str, Path]:
    tracker, purpose = folder / _DEEPSPEED_TRACKER, "must hold the name of a folder beside it, as DeepSpeed writes it"
    word = read_small_text(tracker, _TRACKER_BYTES, purpose).strip()
    if not re.fullmatch(r"[\w.-]{1,200}", word) or word in (".", ".."):
        raise CheckpointError(f"{tracker}: {purpose}, not {word[:40]!r}")
    if not (folder / word).is_dir():
        raise CheckpointError(f"{tracker}: names {word}, but there is no folder {folder / word}")
    step = _STEP_FOLDER.fullmatch(word)
    return (str(int(step[1])) if step else "release"), folder / word


def _is_shard(path: Path) -> bool:
    named = _SHARD.fullmatch(path.name) or _SAFETENSORS_SHARD.fullmatch(path.name) or _is_zero(path.name)
    return bool(named) or _in_folder(path) is not None


def _is_zero(name: str) -> bool:
    return name.startswith("zero_pp_rank_") and name.endswith("_model_states.pt")


def _in_folder(path: Path) -> Path | None:
    """The shard in a folder of its own, as Megatron-LM writes it."""
    if not _SHARD_FOLDER.fullmatch(path.name):
        return None
    return next((path / name for name in _IN_SHARD_FOLDER if (path / name).exists()), None)


def _files(directory: Path) -> list[Path]:
    entries = sorted(directory.iterdir())
    if safetensors := _by_rank(directory, [p for p in entries if _SAFETENSORS_SHARD.fullmatch(p.name)]):
        return _all_ranks(directory, safetensors, safetensors_shard_name)
    if found := _by_rank(directory, entries):
        return _all_ranks(directory, found, shard_name)
    raise CheckpointError(f"{directory}: " + _why_none([path.name for path in entries]))


def _by_rank(directory: Path, entries: list[Path]) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in entries:
        named = _SHARD.fullmatch(path.name) or _SAFETENSORS_SHARD.fullmatch(path.name)
        match = named or _SHARD_FOLDER.fullmatch(path.name)
        file = path if named else _in_folder(path)
        if match is None or file is None:
            continue
        rank = int(match[1])
        if rank in found:
            a, b = (p.relative_to(directory) for p in (found[rank], file))
            raise CheckpointError(f"{directory}: two files for rank {rank}: {a} and {b}; remove one")
        found[rank] = file
    return found


def _all_ranks(directory: Path, found: dict[int, Path], name: Callable[[int], str]) -> list[Path]:
    """The files in rank order; raises CheckpointError if one is missing before the last."""
    missing = next(r for r in range(len(found) + 1) if r not in found)
    if missing < max(found):
        raise CheckpointError(f"{directory}: shard {name(missing)} is missing (there is one for rank {max(found)})")
    return [found[rank] for rank in sorted(found)]


def _why_none(names: list[str]) -> str:
    if any(_is_zero(name) for name in names):
        return ZERO_3
    said = f"no {shard_name(0)} there"
    if any(re.fullmatch(r"layer_[0-9]+-model.*model_states\.pt|mp_rank_[0-9]+_[0-9]+", name) for name in names):
        said += "; the checkpoint was saved with pipeline parallelism, which is not supported"
    elif any(name.endswith("optim_states.pt") for name in names):
        said += ", only the optimizer's states"
    return said
