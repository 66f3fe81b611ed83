"""The prose is plain: words that make a sentence a riddle are rare in comments, docstrings and pages."""

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT = 1.0  # of 1,000 words
RIDDLES = re.compile(
    r"\b(nobody|whoever|somebody|anybody|everybody|meanwhile|amid|anew|lest|ails|told|thereby|ought|shall|wish(es|ed)?"
    r"|go(es|ing|ne)? on with|went on with|let(s|ting)? go|so many|once more|for ever|in vain|last words"
    r"|see(s|ing|n)? to it|saw to it|what (became|becomes) of)\b",
    re.IGNORECASE,
)
WORD = re.compile(r"[A-Za-z]+(?:['’-][A-Za-z]+)*")

Passage = tuple[int, str]  # a line's number and the prose that begins there


def python(text: str) -> Iterator[Passage]:
    """Yield the comments and docstrings of Python source. Comments of adjacent lines are one passage."""
    previous = 0
    passage: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            if passage and token.start[0] != previous + 1:
                yield previous - len(passage) + 1, " ".join(passage)
                passage = []
            previous = token.start[0]
            passage.append(token.string.lstrip("#: "))
    if passage:
        yield previous - len(passage) + 1, " ".join(passage)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(docstring := ast.get_docstring(node), str):
                yield first.lineno, docstring


def c_like(text: str) -> Iterator[Passage]:
    """Yield the comments of C++, JavaScript or CSS. Those of adjacent lines are one passage."""
    for found in re.finditer(r"/\*.*?\*/|(?<![:\"'`\w])//[^\n]*(?:\n[ \t]*//[^\n]*)*", text, re.DOTALL):
        yield text.count("\n", 0, found.start()) + 1, re.sub(r"\n[ \t]*(//|\*)", " ", found[0])


def markdown(text: str) -> Iterator[Passage]:
    """Yield the paragraphs of a page without its blocks of code."""
    prose = re.sub(r"^```.*?^```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    for found in re.finditer(r"(?:[^\n]*\S[^\n]*\n?)+", prose):
        yield prose.count("\n", 0, found.start()) + 1, found[0]


def files(*patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(ROOT.glob(pattern))]


GROUPS: dict[str, tuple[Callable[[str], Iterator[Passage]], list[Path]]] = {
    "python": (python, files("cpm_gen/**/*.py")),
    "native kernels": (c_like, files("native/include/*.h", "native/src/*", "native/tests/*")),
    "page": (c_like, files("cpm_gen/server/static/*.js", "cpm_gen/server/static/*.css")),
    "documents": (
        markdown,
        files("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/**/*.md", "training/*.md"),
    ),
}


@pytest.mark.parametrize("group", GROUPS)
def test_fewer_than_one_word_of_a_thousand_is_a_riddle(group: str) -> None:
    passages, paths = GROUPS[group]
    assert paths
    words = 0
    found = []
    for path in paths:
        for line, prose in passages(path.read_text(encoding="utf-8")):
            words += len(WORD.findall(prose))
            for hit in RIDDLES.finditer(" ".join(prose.split())):
                around = hit.string[max(0, hit.start() - 40) : hit.end() + 20]
                found.append(f"{path.relative_to(ROOT)}:{line}: …{around}…")
    rate = 1000 * len(found) / words
    assert rate < LIMIT, f"{rate:.1f} of 1,000 words ({words}); a passage's first line:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("passages", "text"),
    [
        (python, '"""Nobody waits."""\nx = 1  # told\n\n\n# gone on\n# with\ny = "somebody"\n'),
        (c_like, 'x = "http://anybody"; // Nobody\n/* told\n * so */\n// gone on\n// with\n'),
        (markdown, "Nobody is told.\n\n```\nwhoever\n```\nIt has gone on\nwith it.\n"),
    ],
)
def test_prose_is_found_and_code_is_not(passages: Callable[[str], Iterator[Passage]], text: str) -> None:
    prose = " ".join(" ".join(p.split()) for _, p in passages(text))
    assert {hit[0].lower() for hit in RIDDLES.finditer(prose)} == {"nobody", "told", "gone on with"}
