"""How a group of settings is declared: a frozen pydantic dataclass whose fields hold type, default, bounds and help.

::

    @settings_group
    class SamplingParams:
        top_k: int = Field(default=0, ge=0, description="keep the k most probable tokens; 0: all")

Flags, environment variables, YAML keys, keyword arguments, HTTP bodies and ``GET /settings`` are derived from these fields.
"""

from __future__ import annotations

import functools
from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from cpm_gen.config.explain import explain_setting
from cpm_gen.config.fields import declared
from cpm_gen.errors import ConfigError

T = TypeVar("T")

# Values are not converted: "5" is no number and 1.0 is no whole number. cpm_gen.config.words reads those of text sources.
_CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def settings_group(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass that checks its values on construction; a wrong one raises ConfigError."""
    group: Any = dataclass(frozen=True, kw_only=True, config=_CONFIG)(cls)
    construct = group.__init__

    @functools.wraps(construct)
    def __init__(self: Any, **values: Any) -> None:
        try:
            construct(self, **values)
        except ValidationError as error:
            raise ConfigError(explain_setting(error.errors(), declared(group), values)) from None

    group.__init__ = __init__
    made: type[T] = group
    return made
