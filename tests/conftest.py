"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of reference data recorded from the original code, and the real vocabulary."""
    folder = Path(os.environ.get("CPM_GEN_REFERENCE") or Path(__file__).parents[2] / "shared")
    if not (folder / "original" / "generate.json").is_file():
        pytest.skip("no reference data: set CPM_GEN_REFERENCE to the folder that holds original/ and vocab/")
    return folder


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the machine's own leaks into a test."""
    for name in os.environ:
        if name.startswith("CPM_GEN_") and name != "CPM_GEN_REFERENCE":
            monkeypatch.delenv(name)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
