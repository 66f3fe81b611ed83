"""The window against a token-by-token restatement of its contract, written with lists of tokens instead of positions."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpm_gen.config.options import SamplingParams
from cpm_gen.engine.sequence import Request, Sequence
from cpm_gen.engine.window import Window
from cpm_gen.errors import ConfigError

TOKENS = st.lists(st.integers(0, 5), max_size=80)
ENDS = st.none() | st.frozensets(st.integers(0, 5), max_size=3)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    limit = draw(st.integers(1, 14))
    keep = draw(st.integers(0, limit - 1))
    hop = draw(st.integers(1, limit - keep))
    return Window(limit=limit, hop=hop, keep=keep, boundary=draw(st.sampled_from(["token", "sentence", "eod"])))


def arrivals(window: Window, history: list[int], ends: frozenset[int] | None) -> list[list[int]]:
    """The context after every token: a head that stays and a tail that loses its front when the two grow too long."""
    head: list[int] = []
    tail: list[int] = []
    contexts = []
    for token in history:
        (head if len(head) < window.keep else tail).append(token)
        if len(head) + len(tail) > window.limit:
            dropped = [n for n in range(window.hop, len(tail)) if ends is None or tail[n - 1] in ends]
            del tail[: dropped[0] if dropped else window.hop]
        contexts.append(head + tail)
    return contexts


@settings(max_examples=400, deadline=None)
@given(windows(), TOKENS, ENDS)
def test_context_of_a_growing_history_is_what_the_contract_says(window, history, ends):
    start = window.keep
    for n, expected in enumerate(arrivals(window, history, ends), 1):
        start = window.advance(history[:n], start, ends)
        assert window.context(history[:n], start) == expected


@settings(max_examples=400, deadline=None)
@given(windows(), TOKENS, ENDS)
def test_long_prompt_moves_as_if_it_had_arrived_token_by_token(window, history, ends):
    expected = (arrivals(window, history, ends) or [[]])[-1]
    assert window.context(history, window.advance(history, window.keep, ends)) == expected


@settings(deadline=None)
@given(windows(), TOKENS, ENDS, st.data())
def test_start_known_for_a_prefix_leads_to_the_same_start(window, history, ends, data):
    n = data.draw(st.integers(0, len(history)))
    midway = window.advance(history[:n], window.keep, ends)
    assert window.advance(history, midway, ends) == window.advance(history, window.keep, ends)


@settings(deadline=None)
@given(windows(), TOKENS, ENDS, st.data())
def test_length_means_that_much_of_the_history(window, history, ends, data):
    n = data.draw(st.integers(0, len(history)))
    assert window.advance(history, window.keep, ends, n) == window.advance(history[:n], window.keep, ends)


@settings(deadline=None)
@given(windows(), TOKENS.filter(bool), ENDS)
def test_context_never_exceeds_the_limit_and_always_holds_the_newest_token(window, history, ends):
    start = window.advance(history, window.keep, ends)
    context = window.context(history, start)
    assert 1 <= len(context) <= window.limit
    assert context[-1] == history[-1]
    if len(history) > window.keep:
        assert start < len(history)


@settings(deadline=None)
@given(windows(), TOKENS, ENDS)
def test_start_moves_only_when_the_context_would_exceed_the_limit(window, history, ends):
    start = window.keep
    for n in range(1, len(history) + 1):
        moved = window.advance(history[:n], start, ends)
        overfull = n > window.limit if start == window.keep else window.keep + n - start > window.limit
        assert (moved != start) == overfull
        assert moved == start or moved - start >= window.hop
        start = moved


@settings(deadline=None)
@given(windows(), TOKENS.filter(bool), ENDS)
def test_kept_tokens_open_every_context(window, history, ends):
    context = window.context(history, window.advance(history, window.keep, ends))
    head = history[: window.keep]
    assert context[: len(head)] == head


@settings(deadline=None)
@given(st.integers(1, 20), TOKENS)
def test_hop_one_at_any_token_is_the_plain_window_of_the_original(limit, history):
    window = Window(limit=limit, hop=1)
    assert window.context(history, window.advance(history, 0, None)) == history[-limit:]


@settings(deadline=None)
@given(st.integers(1, 20), TOKENS)
def test_hop_one_at_eod_drops_up_to_and_including_the_first_eod(limit, history):
    eod = 0
    window = Window(limit=limit, hop=1, boundary="eod")
    text = ""  # of letters, so that str.partition does the work
    for token in history:
        text += chr(ord("a") + token)
        if len(text) > limit:
            _, found, rest = text.partition("a")
            text = rest if found and rest else text[1:]
    expected = [ord(c) - ord("a") for c in text]
    assert window.context(history, window.advance(history, 0, frozenset({eod}))) == expected


def test_the_example_in_the_docstring_holds():
    window, history, seen, start = Window(limit=6, hop=3), list(range(10)), [], 0
    for n in range(6, 11):
        start = window.advance(history[:n], start, None)
        seen.append((start, window.context(history[:n], start)))
    assert [s for s, _ in seen] == [0, 3, 3, 3, 6]
    assert seen[1][1] == [3, 4, 5, 6]
    assert seen[-1][1] == [6, 7, 8, 9]


def test_boundary_before_the_hop_does_not_count_and_one_exactly_at_the_hop_does():
    window, end = Window(limit=6, hop=3, boundary="eod"), frozenset({9})
    assert window.advance([1, 9, 1, 1, 1, 1, 1], 0, end) == 3  # none in reach: exactly the hop
    assert window.advance([1, 1, 9, 1, 1, 1, 1], 0, end) == 3
    assert window.advance([1, 1, 1, 9, 9, 1, 1], 0, end) == 4
    assert window.advance([1, 1, 1, 1, 1, 9, 1], 0, end) == 6  # the newest token alone stays
    assert window.advance([1, 1, 1, 1, 1, 1, 9], 0, end) == 3  # after it nothing would stay


def test_window_of_one_token_sees_the_newest():
    window = Window(limit=1, hop=1)
    assert window.context([4, 5, 6], window.advance([4, 5, 6], 0, None)) == [6]


def test_history_shorter_than_keep_is_the_whole_context():
    window = Window(limit=8, hop=2, keep=5)
    assert window.context([1, 2, 3], window.advance([1, 2, 3], 5, None)) == [1, 2, 3]


def test_hop_of_the_whole_window_leaves_kept_and_newest_token():
    window = Window(limit=5, hop=3, keep=2)
    history = [0, 1, 2, 3, 4, 5]
    assert window.context(history, window.advance(history, 2, None)) == [0, 1, 5]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"limit": 0, "hop": 1}, "limit"),
        ({"limit": -3, "hop": 1}, "limit"),
        ({"limit": 8, "hop": 0}, "hop"),
        ({"limit": 8, "hop": -1}, "hop"),
        ({"limit": 8, "hop": 9}, "hop"),
        ({"limit": 8, "hop": 6, "keep": 3}, "hop"),
        ({"limit": 8, "hop": 1, "keep": -1}, "keep"),
        ({"limit": 8, "hop": 1, "keep": 8}, "keep"),
        ({"limit": 8, "hop": 1, "boundary": "line"}, "boundary"),
    ],
)
def test_impossible_windows_are_config_errors_that_name_the_setting(arguments, word):
    with pytest.raises(ConfigError, match=word):
        Window(**arguments)


def test_widest_allowed_numbers_are_allowed():
    Window(limit=8, hop=8)
    Window(limit=8, hop=5, keep=3)
    Window(limit=8, hop=1, keep=7)


def test_a_window_is_a_frozen_value():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Window(limit=8, hop=1).hop = 2
    assert Window(limit=8, hop=1) == Window(limit=8, hop=1, boundary="token", keep=0)


class Looked(frozenset):
    """Ids that count how often they were looked through."""

    times = 0

    def __contains__(self, id: object) -> bool:
        Looked.times += 1
        return super().__contains__(id)


@pytest.mark.parametrize("every", [None, 7, 300])
def test_each_token_is_looked_at_once_however_short_the_hop(every):
    history = [9 if every and n % every == 0 else 1 for n in range(1, 3001)]
    window, ends, whole = Window(limit=400, hop=1, boundary="eod"), Looked({9}), len(history)
    Looked.times = 0
    assert window.advance(history, 0, ends) >= whole - 400
    assert Looked.times <= 2 * whole
    Looked.times = 0
    sequence = Sequence(Request((1,), window, ends, SamplingParams(), seed=1, max_new_tokens=10**6))
    for token in history:
        sequence.append(token)
    assert sequence.start == window.advance([1, *history], 0, ends)
    assert Looked.times <= 5 * whole
