"""Stop strings: the text up to the first one comes through, however it was cut into pieces."""

from hypothesis import given, settings
from hypothesis import strategies as st

from cpm_gen.text.stop_strings import StopScanner

LETTERS = st.text("ab", max_size=30)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def cuts(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def pieces(draw: st.DrawFn) -> list[str]:
    return cuts(draw, draw(LETTERS))


def through(stops: list[str], parts: list[str]) -> tuple[str, str | None]:
    scanner = StopScanner(stops)
    shown = ""
    for part in parts:
        shown += scanner.push(part)
        if scanner.found is not None:
            break
    return shown + scanner.flush(), scanner.found


@settings(deadline=None)
@given(pieces(), st.text("ab", min_size=1, max_size=5))
def test_one_stop_string_cuts_the_text_where_it_first_stands(parts, stop):
    before, found, _ = "".join(parts).partition(stop)
    assert through([stop], parts) == (before, found or None)


@settings(deadline=None)
@given(pieces(), STOPS)
def test_of_several_stop_strings_the_one_complete_first_cuts(parts, stops):
    text = "".join(parts)
    shown, found = through(stops, parts)
    places = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    assert shown == (text[: min(places)[1]] if places else text)
    assert (found is None) == (not places)
    if found is not None:
        assert text.startswith(found, len(shown))


@settings(deadline=None)
@given(pieces(), STOPS)
def test_no_stop_string_is_ever_shown(parts, stops):
    shown, _ = through(stops, parts)
    assert "".join(parts).startswith(shown)
    assert not any(stop in shown for stop in stops)


@settings(deadline=None)
@given(pieces(), STOPS)
def test_only_what_may_still_become_a_stop_string_is_held_back(parts, stops):
    scanner = StopScanner(stops)
    text = shown = ""
    for part in parts:
        text += part
        shown += scanner.push(part)
        if scanner.found:
            break
        ends = [text[len(text) - n :] for n in range(len(text) + 1)]
        assert len(text) - len(shown) == max(
            (len(end) for end in ends if any(stop.startswith(end) and stop != end for stop in stops)), default=0
        )


@settings(deadline=None)
@given(pieces())
def test_without_stop_strings_every_piece_comes_through_at_once(parts):
    scanner = StopScanner([])
    assert [scanner.push(part) for part in parts] == parts
    assert scanner.flush() == ""
    assert scanner.found is None


def test_what_follows_a_stop_string_waits_until_it_is_passed_over():
    scanner = StopScanner(["。"])
    assert scanner.push("你好。再见") == "你好"
    assert scanner.found == "。"
    assert scanner.push("又来。") == "。再见又来"
    assert scanner.found == "。"


def test_what_was_held_back_comes_out_at_the_end():
    scanner = StopScanner(["完了吗"])
    assert scanner.push("他说完了") == "他说"
    assert scanner.flush() == "完了"
    assert scanner.flush() == ""


def test_held_text_comes_out_when_it_becomes_no_stop_string():
    scanner = StopScanner(["\n\n"])
    assert scanner.push("一\n") == "一"
    assert scanner.push("二\n") == "\n二"
    assert scanner.push("\n三") == ""
    assert scanner.found == "\n\n"


def test_text_that_is_not_looked_at_may_hold_a_stop_string():
    scanner = StopScanner(["ab"])
    assert scanner.push("xaby", look=False) == "xaby"
    assert scanner.push("za") == "z"
    assert scanner.push("b", look=False) == "ab"
    assert scanner.found is None
    assert scanner.push("ab!") == ""
    assert scanner.found == "ab"


def test_of_stop_strings_that_begin_together_the_shortest_is_complete_first():
    assert through(["ab", "abc"], ["xabcd"]) == ("x", "ab")


@settings(deadline=None)
@given(pieces(), STOPS)
def test_what_is_pushed_after_a_stop_string_passes_it_over(parts, stops):
    scanner = StopScanner(stops)
    shown, passed = "", 0
    for part in parts:
        shown += scanner.push(part)
        passed += scanner.found is not None
    assert "".join(parts).startswith(shown)
    if scanner.found is None:
        assert shown + scanner.flush() == "".join(parts)
    else:
        assert "".join(parts).startswith(shown + scanner.found)
        assert scanner.flush() == ""
    assert passed >= (through(stops, parts)[1] is not None)
