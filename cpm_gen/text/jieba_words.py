"""jieba, loaded on first use: a text cut into words."""

from __future__ import annotations

import functools
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from cpm_gen.config.user_folders import user_folder
from cpm_gen.errors import ConfigError

_lock = threading.Lock()


def cut(text: str) -> Iterator[str]:
    """The words of ``text``; they join to it. Safe to call from several threads."""
    with _lock:
        cutter = _load()
    words: Iterator[str] = cutter.cut(text)
    return words


@functools.lru_cache(maxsize=1)
def _load() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba's own: escape sequences, pkg_resources
        import jieba
    jieba.setLogLevel(logging.CRITICAL + 1)  # it logs its start and a cache it cannot write, both harmless
    cutter = jieba.Tokenizer()
    cutter.tmp_dir = _cache_dir()
    cutter.initialize()
    return cutter


def _cache_dir() -> str:
    """Return the user's folder for jieba's dictionary cache. In the shared temporary folder another user could replace the file."""
    try:
        folder = user_folder("cache")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return str(folder)
    except (OSError, ConfigError):
        return os.devnull  # without a cache jieba builds its dictionary at each start, which takes a second
