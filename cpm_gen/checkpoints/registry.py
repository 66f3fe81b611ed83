"""The public models that this software is for: ``configs/registry/models.yaml``."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from cpm_gen.config.files import read_yaml, shipped

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_CONFIG)
class PublicFile:
    """A file with what its authors published about it: bytes, SHA-1 or SHA-256."""

    path: str
    size: int | None = None
    sha1: str | None = Field(default=None, pattern="^[0-9a-f]{40}$")
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


@dataclass(frozen=True, config=_CONFIG)
class PublicModel:
    """A public model. parameters: how many, for people; hub: its id on the Hugging Face Hub; tried: whether it was run with cpm-gen."""

    about: str
    parameters: str
    tried: bool
    hub: str | None = Field(default=None, pattern=f"^{_HUB_ID.pattern}$")
    files: tuple[PublicFile, ...] = ()
    note: str | None = None


def registry() -> dict[str, PublicModel]:
    """All public models by name."""
    content: Any = read_yaml(shipped("registry/models.yaml"))
    return TypeAdapter(dict[str, PublicModel]).validate_python(content)


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of an id on the Hub: ``owner/name``."""
    return _HUB_ID.fullmatch(name) is not None


def hint(name: str) -> str:
    """What to say of a model's folder that does not exist: how to download it, if its name is a public model's."""
    if name in registry() or is_hub_id(name):
        return f"; cpm-gen download {name} fetches the model of that name"
    near = difflib.get_close_matches(name, registry(), n=1)
    return f"; cpm-gen download {near[0]} would fetch a public model" if near else ""
