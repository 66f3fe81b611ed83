"""Wheels with a compiler and without one. Slow: pip downloads the build backend and builds them."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def wheel(folder: Path, **environment: str) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        env={**os.environ, **environment},
        timeout=600,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize(("compiler", "library"), [("", True), ("/bin/false", False)])
def test_a_wheel_holds_the_kernels_where_there_is_a_compiler(compiler: str, library: bool, tmp_path: Path) -> None:
    built = wheel(tmp_path / "wheels", **({"CXX": compiler} if compiler else {}))
    assert built.name.endswith("-py3-none-any.whl") is not library
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    assert {
        "cpm_gen/configs/lyric.yaml",
        "cpm_gen/embedded/vocab.json",
        "cpm_gen/networks/native/model.py",
        "cpm_gen/server/static/index.html",
    } <= names
    assert any(name.startswith("cpm_gen/libcpm_native.") for name in names) is library
    assert not any(name.startswith(("native/", "tests/", "cpm_gen/src")) for name in names)
    # the installed package, not the working copy
    run = subprocess.run(
        [sys.executable, "-P", "-c", START, "lyric", "明月", "--max-new-tokens", "5", "--seed", "1"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env={**os.environ, "AT": str(tmp_path / "installed")},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    assert ("so torch computes" in run.stderr) is not library
    assert run.stderr.count("note:") == (0 if library else 1)


START = """
import os, sys
sys.meta_path = [f for f in sys.meta_path if not type(f).__module__.startswith("_editable")]
sys.path = [os.environ["AT"]] + [p for p in sys.path if p]
import cpm_gen, importlib.metadata
assert cpm_gen.__file__.startswith(os.environ["AT"]), cpm_gen.__file__
importlib.metadata.distribution = lambda name: (_ for _ in ()).throw(importlib.metadata.PackageNotFoundError(name))
from cpm_gen.cli.main import main
sys.exit(main())
"""
