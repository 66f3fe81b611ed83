"""Run commands in this process, and texts for those that measure."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cpm_gen.cli.main import main

Run = Callable[..., tuple[int, str, str]]
FLAGS = ("--threads", "1", "--batch", "1")
POEMS = ("床前明月光，\n疑是地上霜。\n\n举头望明月，\n低头思故乡。\n\n白日依山尽，\n黄河入海流。\n\n" * 2).strip()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        status = main(words)
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


@pytest.fixture
def poems(tmp_path: Path) -> str:
    (tmp_path / "poems.txt").write_text(POEMS, encoding="utf-8")
    return str(tmp_path / "poems.txt")
