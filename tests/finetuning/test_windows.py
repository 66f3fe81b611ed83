"""Windows of packed texts: what they hold, and that they are a function of seed and number alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpm_gen.errors import InputError
from cpm_gen.finetuning.texts import Encoded, Source, Texts
from cpm_gen.finetuning.windows import IGNORED, RandomWindows, held_out_rows

UNK, END = 0, 7


def texts(*streams: list[int], shares: tuple[float, ...] | None = None) -> Texts:
    made = []
    for n, stream in enumerate(streams):
        source = Source(f"source{n}", "lyric", share=None if shares is None else shares[n])
        made.append(Encoded(source, np.array(stream, np.int32), np.zeros(0, np.int32), 2, 0, len(stream), 0, ""))
    return Texts(made, UNK)


streams = st.lists(st.integers(0, 40), min_size=60, max_size=200)


@given(streams, st.integers(8, 24), st.integers(0, 2**63), st.integers(0, 10**12), st.booleans())
def test_a_window_is_a_piece_of_the_texts_and_a_function_of_its_number(
    stream: list[int], length: int, seed: int, index: int, whole: bool
) -> None:
    windows = RandomWindows(texts(stream), {END}, length, 32, seed)
    rows = windows.rows(index, whole)
    again = RandomWindows(texts(stream), {END}, length, 32, seed).rows(index, whole)
    for name in ("ids", "targets", "positions"):
        assert np.array_equal(getattr(rows, name), getattr(again, name))
    n = length if whole else length // 2
    assert rows.ids.shape == rows.targets.shape == rows.positions.shape == ((1, n) if whole else (2, n))
    for ids, targets, positions in zip(rows.ids, rows.targets, rows.positions, strict=True):
        following = [*ids[1:], None]
        assert all(t == IGNORED if f == UNK else t == f for t, f in zip(targets[:-1], following[:-1], strict=True))
        places = [k for k in range(len(stream) - n) if stream[k : k + n] == list(ids)]
        assert places
        last = {IGNORED if stream[k + n] == UNK else stream[k + n] for k in places}
        assert targets[-1] in last
        assert positions[0] >= 0 and positions[-1] < 32
        assert np.array_equal(np.diff(positions), np.ones(n - 1))
    assert rows.positions[0, 0] == 0


def test_windows_begin_after_lines_and_train_every_position() -> None:
    stream = ([5, 6, 8, 9, END] * 80)[:399]
    windows = RandomWindows(texts(stream), {END}, 20, 32, 1)
    drawn = [windows.rows(n, False) for n in range(300)]
    first = [ids[0] for rows in drawn for ids in rows.ids]
    assert first.count(5) > 0.9 * len(first)
    assert {p for rows in drawn for p in rows.positions.flatten()} == set(range(32))
    assert len({rows.ids.tobytes() for rows in drawn}) > 1


def test_sources_are_drawn_by_their_shares() -> None:
    windows = RandomWindows(texts([1] * 100, [2] * 5000, shares=(3, 1)), {END}, 8, 16, 0)
    first = [windows.rows(n, True).ids[0, 0] for n in range(2000)]
    assert 0.72 < first.count(1) / len(first) < 0.78


def test_a_text_shorter_than_a_window_says_what_length_fits() -> None:
    with pytest.raises(InputError, match=r"source0: 20 tokens to train on, .* or --length 16"):
        RandomWindows(texts([1] * 20), {END}, 64, 64, 0)


@given(st.lists(st.integers(0, 40), max_size=60), st.integers(1, 20), st.integers(1, 60))
def test_held_out_windows_score_each_token_once(ids: list[int], length: int, most: int) -> None:
    rows = held_out_rows(np.array(ids, np.int32), length, most, UNK)
    scored = [t for r in rows for t in r.targets[0]]
    expected = [IGNORED if i == UNK else i for i in ids[1:]]
    windows = [expected[at : at + length] for at in range(0, min(most, len(expected)), length)]
    assert scored == [t for window in windows if set(window) != {IGNORED} for t in window]
    assert all(len(r.ids[0]) == length for r in rows[:-1])
