"""The data rules of CPM-1-Finetune, beside a second writing of them from its ``preprocess_*_template.py``."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cpm_gen.config.finetune_options import finetune_options
from cpm_gen.errors import ConfigError, InputError
from cpm_gen.finetuning.cpm1 import Cpm1Examples
from cpm_gen.finetuning.optimizers import make_optimizer
from cpm_gen.finetuning.schedule import learning_rate_factor
from cpm_gen.finetuning.texts import Source
from cpm_gen.finetuning.windows import IGNORED, Rows
from cpm_gen.text.cpm_tokenizer import Tokenizer
from cpm_gen.text.find_tokenizer import open_tokenizer
from tests.finetuning.conftest import song
from tests.text.vocabularies import bert


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
    """Lines of a song in examples of at most ``most`` ids, each line with its end; a longer line in examples of its own."""
    result = []
    for text in songs:
        lines = [[*tokenizer.encode(line), tokenizer.eod] for line in text.split("\n")]
        while lines:
            rest = lines.pop(0)
            while lines and len(rest) + len(lines[0]) <= most:
                rest += lines.pop(0)
            result += [rest[at : at + most] for at in range(0, len(rest), most)]
    return [example for example in result if len(example) > 1]  # one id has no target


def unpadded(rows: list[Rows]) -> list[list[int]]:
    """The examples that are measured."""
    assert all(r.positions.tolist() == [list(range(r.ids.shape[1]))] for r in rows)
    assert all(r.ids[0, 1:].tolist() == r.targets[0, :-1].tolist() for r in rows)
    return [[*r.ids[0].tolist(), int(r.targets[0, -1])] for r in rows]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 9), min_size=3, max_size=12), st.integers(8, 60))
def test_lyrics_are_packed_line_by_line(tmp_path: Path, tokenizer: Tokenizer, lengths: list[int], length: int) -> None:
    songs = [song(n, lines) for n, lines in enumerate(lengths)]
    (tmp_path / "a.txt").write_text("\n\n".join(songs), encoding="utf-8")
    examples = Cpm1Examples([Source(str(tmp_path / "a.txt"), "lyric")], tokenizer, length, seed=3)
    assert sorted(epoch(examples)) == sorted(packed(songs[:-1], length + 1, tokenizer))
    assert sorted(epoch(examples, 1)) == sorted(epoch(examples))
    assert unpadded(examples.dev) == packed(songs[-1:], length + 1, tokenizer)
    (encoded,) = examples.texts.sources
    assert encoded.held.tolist() == [i for e in packed(songs[-1:], length + 1, tokenizer) for i in e]


def test_half_of_what_is_held_out_is_for_the_end(tmp_path: Path, tokenizer: Tokenizer) -> None:
    songs = [song(n, 2) for n in range(130)]
    (tmp_path / "a.txt").write_text("\n\n".join(songs), encoding="utf-8")
    examples = Cpm1Examples([Source(str(tmp_path / "a.txt"), "lyric")], tokenizer, 60, seed=0)
    assert sorted(epoch(examples)) == sorted(packed(songs[:30], 61, tokenizer))
    assert unpadded(examples.dev) == packed(songs[30:80], 61, tokenizer)
    assert unpadded(examples.test) == packed(songs[80:], 61, tokenizer)
    assert examples.texts.sources[0].held_documents == 100
    assert examples.texts.sources[0].beginning == songs[30].split("\n")[0][:12]


def test_each_paragraph_of_a_novel_is_cut_without_overlap(tmp_path: Path, tokenizer: Tokenizer) -> None:
    paragraphs = [song(n, 3) for n in range(30)]
    (tmp_path / "a.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    examples = Cpm1Examples([Source(str(tmp_path / "a.txt"), "novel")], tokenizer, 16, seed=0)
    cut = []
    for paragraph in paragraphs:
        ids = tokenizer.encode(paragraph.replace("\n", ""))
        cut.append([ids[at : at + 17] for at in range(0, len(ids), 17) if len(ids) - at > 1])
    assert sorted(epoch(examples)) == sorted(e for some in cut[:-10] for e in some)
    assert unpadded(examples.dev) == [e for some in cut[-10:-5] for e in some]
    assert unpadded(examples.test) == [e for some in cut[-5:] for e in some]
    assert tokenizer.eod not in {i for e in epoch(examples) for i in e}
    assert epoch(examples) != epoch(examples, 1)


def test_a_long_line_is_counted(tmp_path: Path, tokenizer: Tokenizer) -> None:
    long = song(0, 9).replace("\n", "")
    (tmp_path / "a.txt").write_text(f"{long}\n{song(1, 1)}\n\n{song(2)}", encoding="utf-8")
    examples = Cpm1Examples([Source(str(tmp_path / "a.txt"), "lyric")], tokenizer, 12, seed=0)
    assert examples.long_lines == 1
    ids = [*tokenizer.encode(long), tokenizer.eod]
    assert ids[:13] in epoch(examples) and ids[13:26] in epoch(examples)  # nothing of it is lost


def test_a_vocabulary_without_eod_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"{song(0)}\n\n{song(1)}", encoding="utf-8")
    other = open_tokenizer(bert(tmp_path / "bert"))
    with pytest.raises(ConfigError, match="has no <eod>; the recipe cpm1 is for vocabularies of CPM"):
        Cpm1Examples([Source(str(tmp_path / "a.txt"), "lyric")], other, 12, seed=0)


def test_its_figures_are_those_of_the_scripts() -> None:
    """``finetune_*_fp32.sh``, ``ds_finetune_large_fp32.json``, apex's FusedAdam and ``learning_rates.py``."""
    options = finetune_options({"recipe": "cpm1"}, "lyric")
    assert (options.batch, options.learning_rate, options.epochs, options.clip) == (4, 1e-5, 15.0, 1.0)
    assert finetune_options({"recipe": "cpm1"}, "novel").epochs == 10.0
    optimizer = make_optimizer(torch.nn.Linear(2, 2), options, 1e-5)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}
    end, warm = 1000, 100
    for step in range(0, end + 1, 50):
        expected = step / warm if step <= warm else (end - (step - warm)) / end
        assert learning_rate_factor(step / end, options) == pytest.approx(expected)


def test_a_single_text_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text(song(0), encoding="utf-8")
    with pytest.raises(InputError, match="needs at least two"):
        Cpm1Examples([Source(str(tmp_path / "a.txt"), "lyric")], tokenizer, 12, seed=0)
