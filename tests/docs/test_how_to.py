"""The examples of the how-to pages fit the service."""

import re
import subprocess
import sys

from cpm_gen.translation import language_of
from tests.docs.console import ROOT
from tests.service_process import Server

HOW_TO = ROOT / "docs" / "how-to"


def block(page: str, kind: str) -> str:
    """The only block of this kind of a page."""
    (found,) = re.findall(
        rf"^```{kind}\n(.*?)^```$", (HOW_TO / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return found


def test_the_page_on_windows_says_how_ubuntus_shell_gets_messages_in_chinese() -> None:
    page = (HOW_TO / "windows.zh-CN.md").read_text(encoding="utf-8")
    (ubuntu,) = re.findall(r"`(LANG)=([^`]+)`", page)
    (added,) = re.findall(r"export (\w+)=(\S+)' >> ~/.bashrc", page)
    assert language_of(dict([ubuntu])) == "en"
    assert language_of(dict([ubuntu, added])) == "zh_CN"
    assert f"sudo locale-gen {added[1]}\n" in page  # without it bash and perl warn


def test_the_example_of_openais_client_runs_and_is_the_same_in_chinese(server: Server) -> None:
    code = block("openai.md", "python")
    assert code == block("openai.zh-CN.md", "python")
    run = subprocess.run(
        [sys.executable, "-c", code.replace("http://127.0.0.1:8000", server.url)],
        capture_output=True, text=True, encoding="utf-8", timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert len(run.stdout) > 60
