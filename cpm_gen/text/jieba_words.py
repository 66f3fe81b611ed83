"""jieba, loaded on first use: a text cut into words."""

from __future__ import annotations

import functools
import logging
import marshal
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
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
    jieba = _import()
    jieba.setLogLevel(logging.CRITICAL + 1)  # it logs its start and a cache it cannot write, both harmless
    cutter = jieba.Tokenizer()
    cutter.tmp_dir = _cache_dir()
    try:
        # jieba reads its cache item by item from the file; all at once takes a third of that time
        content = (Path(cutter.tmp_dir) / "jieba.cache").read_bytes()
        cutter.FREQ, cutter.total = marshal.loads(content)
        cutter.initialized = True
    except (OSError, ValueError, EOFError, TypeError):  # none yet, or a damaged one
        cutter.initialize()
    return cutter


def _import() -> Any:
    """Import jieba without pkg_resources, which it uses for nothing here and which takes a fifth of a second."""
    absent = "pkg_resources" not in sys.modules
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba's own: escape sequences
        try:
            if absent:
                sys.modules["pkg_resources"] = None  # type: ignore[assignment]  # its import fails, and jieba opens files itself
            import jieba

            return jieba
        finally:
            if absent:
                del sys.modules["pkg_resources"]


def _cache_dir() -> str:
    """Return the user's folder for jieba's dictionary cache. In the shared temporary folder another user could replace the file."""
    try:
        folder = user_folder("cache")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return str(folder)
    except (OSError, ConfigError):
        return os.devnull  # without a cache jieba builds its dictionary at each start, which takes a second
