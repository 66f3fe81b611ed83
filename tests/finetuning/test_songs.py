"""``training/songs.py``: the first poems of a file, each in a file of its own."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "training" / "songs.py"


def write(file: Path, out: Path, count: int) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SCRIPT), str(file), str(out), "--count", str(count)]
    return subprocess.run(words, capture_output=True, text=True)


def test_the_first_poems_become_files(tmp_path: Path) -> None:
    file = tmp_path / "poems.txt"
    file.write_text("题一\n一行\n\n\n题二\n二行\n二行\n\n题三\n", encoding="utf-8")
    done = write(file, tmp_path / "songs", 2)
    assert done.returncode == 0, done.stderr
    written = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "songs").iterdir()}
    assert written == {"01.txt": "题一\n一行\n", "02.txt": "题二\n二行\n二行\n"}
    assert done.stdout.endswith("2 poems, 13 characters\n")


def test_too_few_poems_are_said(tmp_path: Path) -> None:
    file = tmp_path / "poems.txt"
    file.write_text("题一\n", encoding="utf-8")
    done = write(file, tmp_path / "songs", 2)
    assert done.returncode == 1 and "1 poems between blank lines, not 2" in done.stderr
    assert not (tmp_path / "songs").exists()
