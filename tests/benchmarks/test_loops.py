"""The benchmark of loops: its figures of a text, and a short run with the included model."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import loops  # noqa: E402


def test_unpunctuated_counts_characters_in_long_runs() -> None:
    assert loops.unpunctuated(["春" * 20 + "，" + "秋" * 20 + "。"]) == 0
    assert loops.unpunctuated(["春" * 30 + "，" + "秋" * 10 + "\n"]) == pytest.approx(0.75)


def test_a_short_run_prints_a_row_for_human_text_and_for_each_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    human, rows = tmp_path / "human.txt", tmp_path / "rows.json"
    human.write_text(
        "".join(f"却说第{chr(0x4E00 + i)}日，天色将晚，众人都到{chr(0x5E00 + i)}下。" for i in range(60)),
        encoding="utf-8",
    )
    words = f"loops.py --human {human} --only default --set temperature=0 --texts 2 --tokens 12 --json {rows}"
    monkeypatch.setattr(sys, "argv", words.split())
    loops.main()
    printed = capsys.readouterr().out
    assert [row["name"] for row in json.loads(rows.read_text())] == ["human", "default", "temperature=0"]
    assert all(f"| {name} | " in printed for name in ("human", "default", "temperature=0"))
