"""The folder of reference data: the original's records, vocabularies and folders of models. It is no part of the repository."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


def reference_folder(holds: str) -> Path:
    """The folder, which must hold that file; skips the test without it."""
    folder = Path(os.environ.get("CPM_GEN_REFERENCE") or Path(__file__).parents[2] / "shared")
    if not (folder / holds).is_file():
        pytest.skip(f"no reference data: set CPM_GEN_REFERENCE to the folder that holds {holds}")
    return folder


def arrays(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file, by their names. The file is closed."""
    with np.load(file) as content:
        return dict(content)
