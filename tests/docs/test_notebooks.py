"""The notebooks run from top to bottom and print what they show, and the site has a page of each."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.docs.console import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
HOOKS = runpy.run_path(str(ROOT / "scripts" / "docs_hooks.py"))


def shown(cell: dict[str, Any]) -> list[str]:
    """What a cell has printed and returned; nothing for one whose tag says that this varies, as training does with the threads."""
    if "varies" in cell["metadata"].get("tags", ()):
        return []
    return [output["text"] if "text" in output else output["data"]["text/plain"] for output in cell.get("outputs", ())]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    before = [shown(cell) for cell in notebook.cells]
    assert any(before)
    client = nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", coalesce_streams=True)
    client.execute(cwd=str(tmp_path))
    assert [shown(cell) for cell in notebook.cells] == before


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_page_of_a_notebook_shows_its_cells_in_order(path: Path) -> None:
    page = HOOKS["notebook_page"](path)
    assert page.startswith("# ")
    at = 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for lines in (cell["source"], *shown(cell)):
            at = page.index("".join(lines).rstrip(), at)


def test_links_to_notebooks_lead_to_their_pages_on_the_site() -> None:
    linked = set()
    for page in (ROOT / "docs" / "tutorials").glob("*.md"):
        text = HOOKS["on_page_markdown"](page.read_text(encoding="utf-8"))
        assert ".ipynb)" not in text, page.name
        linked |= set(re.findall(r"notebooks/(\w+)\.md\)", text))
    assert linked == {path.stem for path in NOTEBOOKS}
