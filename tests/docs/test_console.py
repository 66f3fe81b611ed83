"""What runs the commands of pages finds a page that is wrong, and every command of a page is run or has a reason not to be."""

import contextlib
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.docs.console import ROOT, Command, File, Shell, commands, prints, steps
from tests.docs.pages import NOT_RUN, PAGES, TRANSLATED, reason

LINES = st.lists(st.text("ab…\"$'\\ .*()", max_size=6).map(str.rstrip), min_size=1, max_size=4).filter(
    lambda lines: any(lines)
)
GENERATED = {
    "commands.md",
    "settings.md",
    "rest.md",
    "metrics.md",
}  # scripts/build-docs writes them, the first two also in Chinese
CHINESE = [page for page in (ROOT / "docs").rglob("*.zh-CN.md") if page.name.replace(".zh-CN", "") not in GENERATED]


@given(LINES.filter(lambda lines: lines[-1] != ""))
def test_an_output_without_wildcards_is_itself_and_nothing_else(lines: list[str]) -> None:
    plain = tuple(line.replace("…", "x") for line in lines)
    assert prints(plain, "\n".join(plain))
    assert not prints(plain, "\n".join([*plain, "more"]))
    assert not prints(plain, "more\n" + "\n".join(plain))


@given(LINES, LINES)
def test_a_wildcard_line_stands_for_any_lines(before: list[str], between: list[str]) -> None:
    begin = tuple(line.replace("…", "x") for line in before)
    shown = (*begin, "…", "end")
    assert prints(shown, "\n".join([*begin, *between, "end"]))
    assert prints(shown, "\n".join([*begin, "end"]))
    assert not prints(shown, "\n".join([*begin, *between, "other"]))


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        (("id gen-…, done",), "id gen-7f, done\n", True),
        (("id gen-…, done",), "id gen-7f, failed\n", False),
        (("a…",), "a\nb\n", False),
        (("…",), "", True),
    ],
)
def test_a_wildcard_in_a_line_stands_for_any_characters_of_it(
    expected: tuple[str, ...], output: str, same: bool
) -> None:
    assert prints(expected, output) is same


def test_a_page_is_read_in_its_order() -> None:
    page = (
        'Text.\n\n```text title="a.txt"\nhello\n```\n\n```bash\nnot this\n```\n\n'
        "1. In a list:\n\n    ```console\n    ignored\n    ```\n\n"
        "```console\n$ cat a.txt   # shows it\nhello\n$ echo x \\\n  y\n\n$ true\n```\n"
    )
    assert steps(page) == [
        File("a.txt", "hello\n"),
        Command("cat a.txt   # shows it", ("hello",)),
        Command("echo x \\\n  y", ()),
        Command("true", ()),
    ]
    assert commands(page)[0].words == "cat a.txt"


def test_the_shell_keeps_variables_and_files_and_finds_what_is_wrong(tmp_path: Path) -> None:
    with contextlib.closing(Shell(tmp_path, {"/path/to/it": "a.txt"})) as shell:
        shell.write(File("a.txt", "hello\n"))
        shell.run(Command("x=$(cat a.txt)", ()))
        shell.run(Command("echo $x; cat /path/to/it", ("hello", "h…")))
        shell.run(Command("cat", ()))  # standard input is empty
        with pytest.raises(AssertionError, match="status 3"):
            shell.run(Command("(exit 3)", ()))
        with pytest.raises(AssertionError, match="prints\nhello"):
            shell.run(Command("echo hello", ("bye",)))
        with pytest.raises(AssertionError, match="not done in"):
            shell.run(Command("sleep 60", ()), patience=0.2)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_not_run_is_one_of_the_page(page: str) -> None:
    found = [command.words for command in commands((ROOT / page).read_text(encoding="utf-8"))]
    assert found
    for pattern, why in NOT_RUN.get(page, {}).items():
        assert any(fnmatchcase(words, pattern) for words in found), f"{page} has no command {pattern}"
        assert why
    assert any(reason(page, words) is None for words in found)


@pytest.mark.parametrize("page", TRANSLATED)
def test_the_chinese_page_has_the_same_commands_and_files(page: str) -> None:
    english, chinese = (steps((ROOT / name).read_text(encoding="utf-8")) for name in (page, chinese_name(page)))

    def plain(step: File | Command) -> File | Command:
        return step if isinstance(step, File) else Command(re.sub(r" +", " ", step.words), step.output)

    assert list(map(plain, english)) == list(map(plain, chinese))


def test_the_chinese_readme_has_the_same_blocks_besides_the_packages_of_ubuntu() -> None:
    english, chinese = (
        re.findall(r"^```(bash|python|json)\n(.*?)^```$", re.sub(r"  # .*", "", text), re.DOTALL | re.MULTILINE)
        for text in readmes()
    )
    assert english == [(kind, block) for kind, block in chinese if not block.startswith("sudo apt-get ")]
    assert len(chinese) == len(english) + 1


def test_both_readmes_name_the_same_commands() -> None:
    english, chinese = (
        set(re.findall(r"(?:^\$ |`(?:\.venv/bin/)?)(cpm-gen [a-z-]+|(?:bash )?scripts/[\w.-]+)", text, re.MULTILINE))
        for text in readmes()
    )
    assert english == chinese
    assert {"bash scripts/install.sh", "cpm-gen doctor", "cpm-gen batch"} <= english


def test_each_readme_links_to_the_other_in_its_first_line() -> None:
    first = {
        name: (ROOT / name).read_text(encoding="utf-8").partition("\n")[0] for name in ("README.md", "README.zh-CN.md")
    }
    assert "(README.zh-CN.md)" in first["README.md"]
    assert "(README.md)" in first["README.zh-CN.md"]


@pytest.mark.parametrize("page", sorted(CHINESE), ids=lambda page: page.name)
def test_a_chinese_page_links_to_chinese_pages(page: Path) -> None:
    for target in re.findall(r"\]\(([^):#]+\.md)", page.read_text(encoding="utf-8")):
        linked = page.parent / target
        if linked.name not in GENERATED:
            assert linked.is_file(), target
            assert target.endswith(".zh-CN.md") or not linked.with_name(chinese_name(linked.name)).is_file(), target


def readmes() -> list[str]:
    return [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md")]


def chinese_name(page: str) -> str:
    return page.removesuffix(".md") + ".zh-CN.md"
