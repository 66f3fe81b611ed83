"""Where cpm-gen keeps the user's own files: works (data), the prompt history (state) and caches."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

from platformdirs import PlatformDirs

from cpm_gen.errors import ConfigError

_DIRS = PlatformDirs("cpm-gen", appauthor=False)


def user_folder(kind: Literal["data", "state", "cache"]) -> Path:
    """Return the user's folder for files of this kind: the system's convention, or below XDG_DATA_HOME and the like.

    The folder need not exist. Raises ConfigError when the user has no home folder.
    """
    with contextlib.suppress(RuntimeError):  # no home folder; older versions of platformdirs return "~/…" instead
        if (folder := Path(getattr(_DIRS, f"user_{kind}_dir"))).is_absolute():
            return folder
    raise ConfigError(f"no folder for {kind}: this user has no home folder, and XDG_{kind.upper()}_HOME is not set")
