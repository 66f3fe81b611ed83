"""What a release says of itself; wheels with a compiler and without one. Slow: pip downloads the build backend and builds these.

``scripts/check-release`` builds the source distribution and checks both as an index would.
"""

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import cpm_gen

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version", "readme"]
    known = subprocess.run(["git", "grep", "--files-with-matches", "--fixed-strings", cpm_gen.__version__], cwd=ROOT,
                           capture_output=True, text=True).stdout.split()  # fmt: skip
    if not known:
        pytest.skip("no working copy")
    text = {name: (ROOT / name).read_text(encoding="utf-8") for name in known if not name.endswith(".json")}
    own = rf"(version|cpm-gen)[\W_]{{0,8}}{re.escape(cpm_gen.__version__)}\b"
    text.pop("deploy/helm/cpm-gen/Chart.yaml", None)  # Helm reads it there; tests/deploy compares it
    assert [name for name, content in text.items() if re.search(own, content, re.IGNORECASE)] == ["cpm_gen/__init__.py"]


def test_the_page_of_a_package_index_links_to_no_file() -> None:
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\]\(docs/", page)
    for substitution in hook["substitutions"]:
        page = re.sub(substitution["pattern"], substitution["replacement"], page)
    assert [target for target in re.findall(r"\]\(([^)]*)\)", page) if not target.startswith("https://")] == []
    assert "docs/models.md says how" in page
    assert "docs/images" not in page


def test_ci_runs_every_version_of_python_that_is_named() -> None:
    named = [c.split(" :: ")[-1] for c in PROJECT["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert PROJECT["project"]["requires-python"] == f">={named[0]}"
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    (first,) = (step["with"]["python-version"] for step in jobs["check"]["steps"] if "with" in step)
    assert [first, *jobs["versions"]["strategy"]["matrix"]["python"]] == named


def wheel(folder: Path, **environment: str) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        check=True,
        env={**os.environ, **environment},
        timeout=600,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
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
