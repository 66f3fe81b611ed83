"""The ids of requests: which of a caller's are taken, and where they hold."""

import pytest

from cpm_gen.serving.request_ids import current_request, read_ids, working_for

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.mark.parametrize("given", ["a", "A-z0.9_~:/+=@", "5f3c9a1e-7c0b-4e64-9a53-2f8a3f1f7f11", "x" * 128])
def test_a_callers_id_is_kept(given):
    ids = read_ids([given])
    assert (ids.id, ids.given) == (given, True)


@pytest.mark.parametrize(
    "values",
    [[], [""], ["x" * 129], ["a b"], ["a\nb"], ["a\n"], ["一"], ['a"'], ["a;b"], ["\x7f"], ["a", "a"]],
    ids=repr,
)
def test_any_other_id_is_replaced(values):
    ids = read_ids(values)
    assert not ids.given
    assert len(ids.id) == 16
    int(ids.id, 16)
    assert read_ids(values).id != ids.id


@pytest.mark.parametrize(
    "header", [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00", f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be"]
)
def test_a_callers_trace_is_kept(header):
    ids = read_ids(traceparent=[header])
    assert (ids.traceparent, ids.trace_id) == (header, TRACE)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        [f"00-{TRACE}-{PARENT}-01"] * 2,
        [f"00-{TRACE}-{PARENT}"],
        [f"00-{TRACE}-{PARENT}-01-more"],
        [f"00-{TRACE}-{PARENT}-01\n"],
        [f"ff-{TRACE}-{PARENT}-01"],
        [f"00-{'0' * 32}-{PARENT}-01"],
        [f"00-{TRACE}-{'0' * 16}-01"],
        [f"00-{TRACE.upper()}-{PARENT}-01"],
        [f"00-{TRACE[1:]}-{PARENT}-01"],
        [f"cc-{TRACE}-{PARENT}-01-" + "x" * 300],
    ],
    ids=repr,
)
def test_what_is_no_trace_context_is_left_out(headers):
    ids = read_ids(["mine"], headers)
    assert (ids.id, ids.traceparent, ids.trace_id) == ("mine", None, None)


def test_the_current_request_is_that_of_the_block():
    assert current_request() is None
    outer, inner = read_ids(["outer"]), read_ids(["inner"])
    with working_for(outer):
        assert current_request() is outer
        with working_for(inner):
            assert current_request() is inner
        with working_for(None):
            assert current_request() is None
        assert current_request() is outer
    assert current_request() is None
