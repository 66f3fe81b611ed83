"""Containers that a pickle fills, within bounds: cheap keys, no endless nesting, nothing copied too often."""

from __future__ import annotations

import collections
import pickle
from collections.abc import Iterable
from typing import Any

import numpy as np

from cpm_gen.checkpoints.formats.known_globals import Budget, Dropped

_NESTING = 64
_TOO_DEEP = "containers nested too deep, or holding themselves"
_KEY_LENGTH = 10_000  # of a string
_KEY_ITEMS, _KEY_COST = 16, 100_000  # of a tuple as a key; of all keys whose hashes a file can choose


class Containers:
    """Makes and fills the containers of one pickle. All methods raise UnpicklingError for what no checkpoint holds."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._key_cost = 0

    def key(self, key: Any, within: bool = False) -> Any:
        """``key``, if hashing and comparing it is cheap."""
        kind = type(key)
        if key is None or getattr(kind, "__hash__", None) is object.__hash__:  # the latter: by identity
            return key
        if kind is str or kind is bytes:
            if len(key) > _KEY_LENGTH:
                raise pickle.UnpicklingError(f"a key of {len(key):,} characters")
            return key
        if kind in (bool, int, float) and (kind is not int or key.bit_length() <= 64):
            self._key_cost += 1
        elif kind is complex or isinstance(key, np.generic):
            self._key_cost += 10
        elif kind is tuple and len(key) <= _KEY_ITEMS and not within:
            self._key_cost += 10
            for item in key:
                self.key(item, within=True)
        else:
            raise pickle.UnpicklingError(f"a {kind.__name__} that cannot be a key")
        if self._key_cost > _KEY_COST:
            raise pickle.UnpicklingError("too many keys that are no strings")
        return key

    def fill(self, target: Any, items: list[Any]) -> None:
        """Set keys (even places) to values (odd places)."""
        if isinstance(target, Dropped):
            return
        if not isinstance(target, dict):
            raise pickle.UnpicklingError(f"items given to a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[self.key(key)] = value

    def extend(self, target: Any, items: list[Any]) -> None:
        """Append to a list."""
        if isinstance(target, Dropped):
            return
        if not isinstance(target, list):
            raise pickle.UnpicklingError(f"elements given to a {type(target).__name__}")
        target.extend(items)

    def add(self, target: Any, items: Iterable[Any]) -> None:
        """Add to a set."""
        if isinstance(target, Dropped):
            return
        if not isinstance(target, set):
            raise pickle.UnpicklingError(f"elements given to a {type(target).__name__}")
        target.update(self.key(item) for item in items)

    def ordered_dictionary(self, pairs: Any = ()) -> Any:
        """An OrderedDict of (key, value) pairs."""
        result: collections.OrderedDict[Any, Any] = collections.OrderedDict()
        for key, value in self._copied(pairs):
            result[self.key(key)] = value
        return result

    def set_of(self, items: Any = ()) -> set[Any]:
        """A set of the elements of a list or tuple."""
        return {self.key(item) for item in self._copied(items)}

    def frozenset_of(self, items: Any = ()) -> frozenset[Any]:
        """A frozenset of the elements of a list or tuple."""
        return frozenset(self.set_of(items))

    def _copied(self, items: Any) -> Any:
        if type(items) not in (list, tuple):
            raise pickle.UnpicklingError(f"a container made of a {type(items).__name__}")
        self._budget.spend(len(items))
        return items


def check_nesting(content: Any, most: int) -> None:
    """Raise UnpicklingError if containers are nested too deep, contain themselves, or make more than ``most`` objects.

    A shared container counts in each place where it stands.
    """
    _measure(content, {}, 1, most)


def _measure(value: Any, seen: dict[int, tuple[int, int]], depth: int, most: int) -> tuple[int, int]:
    """(levels, size) of containers, shared ones counted in each place. Raises UnpicklingError if one contains itself."""
    if not isinstance(value, (dict, list, tuple, set, frozenset)) or not value:
        return 1, 1
    if id(value) not in seen:
        if depth > _NESTING:
            raise pickle.UnpicklingError(_TOO_DEEP)
        levels, size = 1, 1
        for item in value.values() if isinstance(value, dict) else value:
            below = _measure(item, seen, depth + 1, most)
            levels, size = max(levels, 1 + below[0]), size + below[1]
        seen[id(value)] = levels, size
    levels, size = seen[id(value)]
    if depth + levels > _NESTING or size > most:
        raise pickle.UnpicklingError(_TOO_DEEP)
    return levels, size
