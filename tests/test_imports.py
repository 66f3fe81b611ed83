"""Imports: without torch where it is not needed, and with no package of an extra. The import contracts are in ``pyproject.toml``."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITHOUT_TORCH = (
    "cpm_gen",
    "cpm_gen.errors",
    "cpm_gen.config.resolve",
    "cpm_gen.config.serve_options",
    "cpm_gen.cli.main",
    "cpm_gen.engine.sequence",
    "cpm_gen.sampling.sample",
    "cpm_gen.text.prompt_styles",
    "cpm_gen.text.stop_strings",
    "cpm_gen.text.tokenizer",
)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_a_module_that_starts_the_command_line_does_not_import_torch(module):
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    "words", [["--n", "0"], ["--prompt="], ["x", "--output", "/nonexistent/x"], ["--nonsense"]], ids=str
)
def test_a_mistake_is_refused_before_torch_is_imported(words):
    program = f"import sys; from cpm_gen.cli.main import main; assert main(['lyric', *{words}]) == 2; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, input=b"").returncode == 0


def packages_of(requirements: list[str]) -> set[str]:
    """Return the import names of the distributions that these requirements name, where they are installed."""
    names = {re.split(r"[^\w.-]", requirement)[0].replace("-", "_").lower() for requirement in requirements}
    return {
        package
        for package, distributions in importlib.metadata.packages_distributions().items()
        if any(d.replace("-", "_").lower() in names for d in distributions)
    }


def test_the_command_line_writes_with_the_packages_of_the_core_alone() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    core = packages_of(project["dependencies"])
    extras = packages_of([each for extra in project["optional-dependencies"].values() for each in extra])
    blocked = extras - core - {"cpm_gen", "pydantic"}
    assert {"fastapi", "uvicorn", "sqlalchemy", "playwright", "schemathesis", "pytest"} <= blocked
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(sys.argv[1].split()))\n"
        "from cpm_gen.cli.main import main\n"
        "sys.exit(main(['lyric', '明月', '--max-new-tokens', '5', '--seed', '1']))\n"
    )
    run = subprocess.run([sys.executable, "-c", program, " ".join(blocked)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()


def test_a_python_that_is_too_old_gets_one_line() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert needed == ">=3.11"  # cpm_gen/__main__.py and scripts/install.sh compare with it
    assert "sys.version_info < (3, 11)" in (ROOT / "scripts" / "install.sh").read_text(encoding="utf-8")
    program = "import runpy, sys; sys.version_info = (3, 10, 13, 'final', 0); runpy.run_module('cpm_gen', run_name='__main__')"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "cpm-gen needs Python 3.11 or newer; this is 3.10.13\n"
    chinese = os.environ | {"LC_ALL": "zh_CN.UTF-8"}
    run = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", program], capture_output=True, encoding="utf-8", env=chinese
    )
    assert run.stderr == "cpm-gen 需要 Python 3.11 或更新的版本；这里是 3.10.13\n"
