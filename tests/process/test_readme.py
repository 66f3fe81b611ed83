"""The commands and examples of the README work as written; those of the pages on other people's models parse."""

import contextlib
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cpm_gen.cli.main import build_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONSOLE = [
    line[2:].split("#")[0]
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
PAGES = ("models.md", "coming-from.md", "tokenizers.md", "batch.md")


def commands(page: str) -> list[str]:
    """The commands of cpm-gen in a page: in console blocks, where a line may be continued, and in tables and prose with arguments."""
    blocks = re.findall(r"```console\n(.*?)```", page, re.DOTALL)
    lines = [line[2:].split("#")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`(cpm-gen [a-z-]+ [^`]+)`", page)
    return [line for line in lines if line.startswith("cpm-gen ")] + [code.replace("\\|", "|") for code in inline]


def headings(path: Path) -> list[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def parsed_silently(words: list[str]) -> bool:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        build_parser().parse_args(words)
    return said.getvalue() == ""


def test_the_two_commands_stand_first_and_ci_runs_them() -> None:
    blocks = re.findall(r"```bash\n(.*?)\n```", README, re.DOTALL)
    assert len(blocks) == 2
    assert blocks[0].startswith(
        "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt -e . && .venv/bin/cpm-gen lyric "
    )
    assert blocks[1] == (
        ".venv/bin/pip install -c constraints.txt -e '.[test]' && .venv/bin/python -m pytest -n 2 --dist loadfile"
    )
    ci = (ROOT / ".ci" / "run").read_text()
    assert "readme 1" in ci
    assert "readme 2" in ci
    shown = subprocess.run(
        ["bash", "-c", re.search(r"^readme\(\).*?^}$", ci, re.DOTALL | re.MULTILINE)[0] + "\nreadme 1; readme 2"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert shown.splitlines() == blocks


@pytest.mark.parametrize(
    "line", [line for line in CONSOLE if "cpm-gen" in line or "change_mp" in line or "-m cpm_gen" in line]
)
def test_every_example_is_a_command_line_that_parses(line: str) -> None:
    words = shlex.split(line.split("|")[-1])
    if "cpm_gen" in words:
        words = words[words.index("cpm_gen") + 1 :]
    elif "change_mp.py" in words:
        words = ["reshard", *words[2:]]
    else:
        words = words[words.index("cpm-gen") + 1 :]
    assert parsed_silently(words)


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_the_pages_on_models_parse(name: str) -> None:
    found = commands((ROOT / "docs" / name).read_text(encoding="utf-8"))
    assert len(found) > 3
    for command in found:
        assert parsed_silently(shlex.split(command)[1:]), command


def test_the_python_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout) > 60


@pytest.mark.parametrize(
    "page",
    ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "SECURITY.md", *(f"docs/{name}" for name in PAGES)],
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            file, _, heading = target.partition("#")
            linked = path.parent / file if file else path
            assert linked.exists(), target
            assert not heading or heading in headings(linked), target


@pytest.mark.parametrize(
    "name", ["lyric_fast", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lyric", "novel", "novel_fast"))]
)
def test_the_originals_scripts_write_without_arguments_and_pass_flags_on(name: str, tmp_path: Path) -> None:
    script = ROOT / "scripts" / f"generate_{name}.sh"
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "VIRTUAL_ENV": "1", "HOME": str(tmp_path)}
    run = subprocess.run(
        ["bash", str(script), "--max-new-tokens", "8", "--seed", "1"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    settings = subprocess.run(
        ["bash", str(script), "/some where", "an input.txt", "--print-config"],
        capture_output=True, text=True, timeout=120, cwd=tmp_path, env={**environment, "MPSIZE": "2"},
    )  # fmt: skip
    shown = dict(line.split("  ")[0].split(": ", 1) for line in settings.stdout.splitlines())
    assert shown["model"].strip() == '"/some where"'
    assert shown["tensor_parallel"].strip() == "2"
    fast = name.endswith("_fast")
    assert shown["decoder"].strip() == ('"cached"' if fast else '"recompute"')
    assert shown["window_hop"].strip() == ("null" if fast else "1")
    assert (shown["top_k"].strip(), shown["top_p"].strip()) == (("50", "0.95") if fast else ("0", "0.0"))
