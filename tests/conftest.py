"""Fixtures shared by all tests."""

import contextlib
import gc
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.processes import restore_signals, with_death_signal
from tests.reference_data import reference_folder

pytest_plugins = ["tests.service_process"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="for the GPU's own tests; without it no test sees a GPU")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ["LC_ALL"] = "C.UTF-8"  # messages in English, whatever the person's own language is
    restore_signals()
    gc.set_threshold(50_000)  # as the command line sets it


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of reference data recorded from the original code, and the real vocabulary."""
    return reference_folder("original/generate.json")


@pytest.fixture
def begin() -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """Start a process as ``subprocess.Popen`` does. It is killed when the test ends, also when the test fails."""
    with contextlib.ExitStack() as stack:

        def begin(words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
            process = stack.enter_context(subprocess.Popen(with_death_signal(words), **options))
            stack.callback(process.kill)
            return process

        yield begin


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Remove the settings of this machine from the environment of a test."""
    for name in os.environ:
        if name.startswith("CPM_GEN_") and name != "CPM_GEN_REFERENCE":
            monkeypatch.delenv(name)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
