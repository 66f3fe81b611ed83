"""One thing that was looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# absent: not installed, and not needed to write. warning: works, but not as it could. failed: no model can run.
Status = Literal["ok", "absent", "warning", "failed"]


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it.

    text: for a person, one line. remedy: what to do, one line; None if nothing is to be done. values: figures for programs.
    """

    name: str
    status: Status
    text: str
    remedy: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


def install(extra: str) -> str:
    """The command that installs an extra."""
    if in_checkout():
        return f"pip install -c constraints.txt -e '.[{extra}]' in the checkout"
    return f"pip install 'WHEEL[{extra}]', WHEEL being the file that cpm-gen was installed from"


def install_again() -> str:
    """The command that builds and installs cpm-gen again."""
    return "pip install --no-deps -e . in the checkout" if in_checkout() else "install cpm-gen again"


def in_checkout() -> bool:
    """Whether the package lies in a working copy of the repository."""
    return (Path(__file__).parents[3] / "native" / "CMakeLists.txt").is_file()
