"""Hooks of mkdocs for the documentation site, and its pages of notebooks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# Docstrings name things in Sphinx's way, which readers of the code and editors know; Markdown shows the role's name.
_ROLE = re.compile(r":(?:class|meth|func|mod|attr):<code>~?([^<]*)</code>")
# A line break within a paragraph is shown as a space, which Chinese does not have.
_PARAGRAPH = re.compile(r"<(p|li)>.*?</\1>", re.DOTALL)
_HAN = r"\u2014\u2018-\u201d\u2026\u3000-\u303f\u4e00-\u9fff\uff00-\uffef"
_BREAK = re.compile(rf"(?<=[{_HAN}])\n(?=[{_HAN}<])|(?<=>)\n(?=[{_HAN}])")
# GitHub needs a backslash before | in code of a table; Python-Markdown shows it.
_CELL = re.compile(r"<td[^>]*>.*?</td>", re.DOTALL)
# GitHub shows the files of a folder; the site has a list of the decisions.
_DECISIONS = re.compile(r"\]\(decisions\)")
# Files link from a Chinese page to Chinese pages; mkdocs-static-i18n takes the name of the English page and finds the Chinese one.
_CHINESE = re.compile(r"(\]\([^)\s]+)\.zh-CN\.md")
# GitHub shows a notebook; a browser shows its JSON, so the site has a page of each.
_NOTEBOOK = re.compile(r"(\]\([^)\s]*notebooks/[^)\s]+)\.ipynb\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links to what the site shows: the list of decisions, a notebook's page, and Chinese pages by their English name."""
    markdown = _NOTEBOOK.sub(r"\1.md)", _DECISIONS.sub("](decisions/index.md)", markdown))
    return _CHINESE.sub(r"\1.md", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Show ``:class:`Story``` of a docstring as ``Story``, and no space where a line of Chinese is broken."""
    html = _CELL.sub(lambda found: found[0].replace(r"\|", "|"), html)
    html = _PARAGRAPH.sub(lambda found: _BREAK.sub("", found[0]), html)
    return _ROLE.sub(r"<code>\1</code>", html)


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its texts, and each cell of code with what it printed and returned."""
    first, *cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = ["".join(first["source"]), f"[{path.name}]({path.name})"]
    for cell in cells:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            shown = "".join(output["text"] if "text" in output else output["data"]["text/plain"])
            parts.append(f"```text\n{shown.rstrip()}\n```")
    return "\n\n".join(parts)
