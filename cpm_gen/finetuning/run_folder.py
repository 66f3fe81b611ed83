"""The folder of a run: its settings and its checkpoints.

``checkpoints/run.json`` says how the run was begun, so that it goes on in the same way. A checkpoint is complete when its
``complete.json`` lists its files with their sizes, as they are: it is written last, when the files are on the disk. Another one is
passed over, and removed before the run goes on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpm_gen.checkpoints.locate import UNFINISHED_RUN
from cpm_gen.checkpoints.publish import flush_entry
from cpm_gen.errors import InputError

_COMPLETE = "complete.json"
_PREFIX = "checkpoint-"
_VERSION = 2  # 1: without the number of threads
LOG = "training.jsonl"


class RunFolder:
    """The folder that ``--output`` names. replace: whether :meth:`begin` removes what is in it."""

    def __init__(self, path: Path, *, replace: bool = False) -> None:
        self.path = path
        self._replace = replace
        self._run = path / UNFINISHED_RUN
        self.checkpoints = self._run.parent

    @property
    def begun(self) -> bool:
        """Whether a run was begun here and has not ended."""
        return self._run.is_file()

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Make the folder; raises InputError if the system refuses."""
        try:
            if self._replace and self.path.is_dir():
                shutil.rmtree(self.path)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            _write(self._run, {"version": _VERSION, **settings})
        except OSError as error:
            raise InputError(f"{self.path}: could not be written: {error.strerror or error}") from None

    def settings(self) -> dict[str, Any]:
        """What :meth:`begin` wrote; raises InputError where there is none or it does not read."""
        path = self._run
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{self.path}: no run to continue there; leave --resume out to start one") from None
        except (OSError, ValueError):
            raise InputError(f"{path}: damaged; start the run again with --force") from None
        if not isinstance(content, dict) or content.get("version") != _VERSION:
            raise InputError(f"{path}: written by another version of cpm-gen; start the run again with --force")
        return content

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.checkpoints / f"{_PREFIX}{step}"

    def seal(self, step: int, seconds: float) -> None:
        """Mark a checkpoint as complete. seconds: of the run so far."""
        folder = self.checkpoint(step)
        sizes = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != _COMPLETE:
                flush_entry(path)
                sizes[str(path.relative_to(folder))] = path.stat().st_size
        _write(folder / _COMPLETE, {"files": sizes, "seconds": seconds})
        flush_entry(self.checkpoints)

    def newest(self) -> tuple[int, float] | None:
        """Step and seconds of the newest complete checkpoint."""
        complete = [(step, seconds) for step in self._steps() if (seconds := self._complete(step)) is not None]
        return max(complete, default=None)

    def drop_incomplete(self, after: int) -> list[int]:
        """Remove what a kill left behind and checkpoints of steps after ``after``; returns their steps."""
        dropped = [step for step in self._steps() if step > after or self._complete(step) is None]
        for step in dropped:
            shutil.rmtree(self.checkpoint(step), ignore_errors=True)
        return dropped

    def clear(self) -> None:
        """Remove the checkpoints: the run has ended."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _steps(self) -> list[int]:
        names = [path.name.removeprefix(_PREFIX) for path in self.checkpoints.glob(f"{_PREFIX}*") if path.is_dir()]
        return sorted(int(name) for name in names if name.isdecimal())

    def _complete(self, step: int) -> float | None:
        folder = self.checkpoint(step)
        try:
            content = json.loads((folder / _COMPLETE).read_text(encoding="utf-8"))
            sound = all((folder / name).stat().st_size == size for name, size in content["files"].items())
            return float(content["seconds"]) if sound else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file as a whole."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    flush_entry(path.parent)
