"""The data rules of CPM-1-Finetune, beside a second writing of them from their description."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpm_gen.errors import InputError
from cpm_gen.finetuning.cpm1 import Cpm1Examples
from cpm_gen.finetuning.texts import Source
from cpm_gen.finetuning.windows import IGNORED
from cpm_gen.text.cpm_tokenizer import Tokenizer
from tests.finetuning.conftest import song


def epoch(examples: Cpm1Examples, number: int = 0) -> list[list[int]]:
    """The examples of an epoch without padding, in its order."""
    count = int(examples.epoch_windows())
    found = []
    for index in range(number * count, (number + 1) * count):
        rows = examples.rows(index, False)
        n = int((rows.targets[0] != IGNORED).sum())
        assert np.array_equal(rows.positions[0], np.arange(examples.length))
        assert (rows.targets[0][n:] == IGNORED).all()
        assert rows.ids[0, 1:n].tolist() == rows.targets[0, : n - 1].tolist()
        found.append([*rows.ids[0, :n].tolist(), int(rows.targets[0, n - 1])])
    return found


def packed(songs: list[str], most: int, tokenizer: Tokenizer) -> list[list[int]]:
    """Lines of a song in examples of at most ``most`` ids, each line with its end."""
    result = []
    for text in songs:
        lines = [[*tokenizer.encode(line), tokenizer.eod] for line in text.split("\n")]
        rest: list[int] = []
        while lines:
            rest = lines.pop(0)[:most]
            while lines and len(rest) + len(lines[0]) <= most:
                rest += lines.pop(0)
            result.append(rest)
    return result


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 9), min_size=3, max_size=12), st.integers(8, 60))
def test_lyrics_are_packed_line_by_line(tmp_path: Path, tokenizer: Tokenizer, lengths: list[int], length: int) -> None:
    songs = [song(n, lines) for n, lines in enumerate(lengths)]
    (tmp_path / "a.txt").write_text("\n\n".join(songs), encoding="utf-8")
    examples = Cpm1Examples([Source(str(tmp_path / "a.txt"), "lyric")], tokenizer, length, seed=3)
    held = max(1, len(songs) // 10)
    assert sorted(epoch(examples)) == sorted(packed(songs[:-held], length + 1, tokenizer))
    assert sorted(epoch(examples, 1)) == sorted(epoch(examples))
    (encoded,) = examples.texts.sources
    assert encoded.held.tolist() == [i for e in packed(songs[-held:], length + 1, tokenizer) for i in e]


def test_novels_are_cut_without_overlap(tmp_path: Path, tokenizer: Tokenizer) -> None:
    paragraphs = [song(n, 3) for n in range(30)]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    examples = Cpm1Examples([Source(str(tmp_path / "a.txt"), "novel")], tokenizer, 16, seed=0)
    ids = [i for p in paragraphs[:-3] for i in tokenizer.encode(p.replace("\n", ""))]
    cut = [ids[at : at + 17] for at in range(0, len(ids), 17)]
    assert sorted(epoch(examples)) == sorted(e for e in cut if len(e) > 1)
    assert tokenizer.eod not in {i for e in epoch(examples) for i in e}
    assert epoch(examples) != epoch(examples, 1)


def test_a_long_line_is_counted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    long = song(0, 9).replace("\n", "")
    (tmp_path / "a.txt").write_text(f"{long}\n{song(1, 1)}\n\n{song(2)}", encoding="utf-8")
    examples = Cpm1Examples([Source(str(tmp_path / "a.txt"), "lyric")], tokenizer, 12, seed=0)
    assert examples.long_lines == 1


def test_a_single_text_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text(song(0), encoding="utf-8")
    with pytest.raises(InputError, match="needs at least two"):
        Cpm1Examples([Source(str(tmp_path / "a.txt"), "lyric")], tokenizer, 12, seed=0)
