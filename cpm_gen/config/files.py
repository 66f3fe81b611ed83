"""YAML files with settings, shipped or the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cpm_gen.config.arguments import one_line
from cpm_gen.config.text_files import decode_text, read_bounded
from cpm_gen.errors import ConfigError


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ConfigError."""
    try:
        content = yaml.safe_load(decode_text(read_bounded(path, ConfigError), f"{path}: not YAML", ConfigError))
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:  # of a date that is none, too
        raise ConfigError(f"{path}: not YAML: {one_line(error)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must be a mapping of settings to values")
    return {str(k): v for k, v in content.items()}


def shipped(name: str) -> Path:
    """A file of ``configs/``, in a checkout or an installed package."""
    package = Path(__file__).parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"no configuration named {name!r} is shipped with cpm-gen")
