"""The learning rate over a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpm_gen.config.finetune_options import FinetuneOptions
from cpm_gen.finetuning.schedule import Progress, learning_rate_factor

shares = st.floats(0, 0.9)


@given(st.floats(0, 1), shares, shares, st.sampled_from(["linear", "cosine"]))
def test_it_rises_stays_and_falls(at: float, warmup: float, flat: float, schedule: str) -> None:
    options = FinetuneOptions(warmup=warmup, flat=flat, schedule=schedule)
    factor = learning_rate_factor(at, options)
    assert 0 <= factor <= 1
    if at < warmup:
        assert factor == pytest.approx(at / warmup)
    elif at <= flat:
        assert factor == pytest.approx(1)
    assert learning_rate_factor(1.0, options) == pytest.approx(0)


def test_linear_and_cosine_meet_in_the_middle() -> None:
    for schedule in ("linear", "cosine"):
        options = FinetuneOptions(warmup=0.0, flat=0.0, schedule=schedule)
        assert learning_rate_factor(0.5, options) == pytest.approx(0.5)
    assert learning_rate_factor(0.25, FinetuneOptions(warmup=0.0, flat=0.0, schedule="cosine")) > 0.8


@pytest.mark.parametrize(("steps", "times"), [(1, 1), (9, 1), (10, 2), (100, 20), (10_000, 20)])
def test_a_run_is_measured_twenty_times_unless_it_is_short(steps: int, times: int) -> None:
    assert Progress(steps).measurements == times


def test_windows_are_whole_at_the_end() -> None:
    progress = Progress(100)
    assert [progress.whole_windows(step) for step in (0, 84, 85, 99)] == [False, False, True, True]


def test_the_clock_ends_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    progress = Progress(None, seconds=60)
    assert progress.at(1e9) == 0
    progress.begin(15.0)  # before a restart
    assert progress.at(0) == 0.25
    now[0] += 15
    assert progress.measured(0) == pytest.approx(0.5)
    assert progress.at(0) == 0.25  # until the ranks agree
    progress.clock_share = progress.measured(0)
    assert progress.at(0) == 0.5
    now[0] += 100
    assert progress.measured(0) == 1
