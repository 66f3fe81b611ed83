"""Works that went on, ended or were given up where the page could not see it, and a Stop that the service could not hear."""

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Route, expect

from tests.page.conftest import Desk, Server, shown, until

pytestmark = pytest.mark.browser

OPENING = "话说天下大势，"


def write(desk: Desk, tokens: int | None) -> None:
    desk.type(OPENING)
    desk.length(tokens)
    desk.press("Control+Enter")


def finished(desk: Desk) -> str:
    """A short text is written; its work."""
    write(desk, 20)
    desk.await_state("finished")
    return str(desk.works()[0]["id"])


def unheard_stop(desk: Desk) -> list[str]:
    """A text without end is written, and Stop does not reach the service; how often it was tried."""
    tried: list[str] = []

    def lose(route: Route) -> None:
        tried.append(route.request.url)
        route.abort()

    write(desk, None)
    desk.await_length(len(OPENING) + 20)
    desk.route("**/pause", lose)
    desk.press("Escape")
    desk.await_state("lost")
    return tried


def eventually(desk: Desk, condition: Callable[[], object]) -> None:
    """Wait while the page's routes are answered."""
    until(lambda: desk.page.wait_for_timeout(50) or condition())


def hold_making(desk: Desk, made: bool) -> list[Route]:
    """The next work's making is held, before the service hears of it or after it made it."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.method != "POST" or held:
            route.continue_()
            return
        if made:
            assert route.fetch().status == 201
        held.append(route)

    desk.route("**/works", hold)
    return held


def stop_and_compare(desk: Desk) -> None:
    desk.press("Escape")
    desk.await_state("paused")
    work = desk.work()
    assert desk.text == shown(work["prompt"] + work["choices"][0]["text"])  # what it continues may hold an end, too
    assert len(desk.works()) == 1


def test_a_work_that_goes_on_elsewhere_is_followed(desk: Desk, served: Server) -> None:
    id, text = finished(desk), desk.text
    with served.client() as client:
        client.post(f"/works/{id}/continue", json={"max_new_tokens": None})
    desk.press("Control+Enter")
    desk.await_length(len(text) + 20)
    stop_and_compare(desk)


def test_what_was_written_elsewhere_is_shown_when_the_page_comes_back(desk: Desk, served: Server) -> None:
    id, text = finished(desk), desk.text
    with served.client() as client:
        client.post(f"/works/{id}/continue", json={"max_new_tokens": 30})
        until(lambda: client.get(f"/works/{id}").json()["state"] == "finished")
    desk.reload()
    desk.await_length(len(text) + 10)
    desk.await_state("finished")
    assert desk.text == OPENING + shown(desk.work()["choices"][0]["text"])
    desk.press("Control+Enter")  # and from there
    until(lambda: desk.works()[0]["tokens"] == 70)
    desk.await_state("finished")
    assert desk.text == OPENING + shown(desk.work()["choices"][0]["text"])


def test_going_on_is_asked_for_once_though_the_answer_was_lost(desk: Desk) -> None:
    finished(desk)

    def lose(route: Route) -> None:
        assert route.fetch().status == 200
        route.abort()

    desk.route("**/continue", lose, times=1)
    desk.press("Control+Enter")
    expect(desk.page.get_by_role("button", name="现在再试")).to_be_visible()
    until(lambda: desk.works()[0]["state"] == "finished")
    desk.page.evaluate("document.querySelector('#notice button')?.click()")  # or it was tried again already
    expect(desk.page.locator("#facts")).to_contain_text("已写 40 词元")
    desk.await_state("finished")
    assert desk.text == OPENING + shown(desk.work()["choices"][0]["text"])
    assert desk.works()[0]["tokens"] == 40


def test_a_work_deleted_elsewhere_while_it_rested_is_written_as_a_new_one(desk: Desk, served: Server) -> None:
    id, text = finished(desk), desk.text
    with served.client() as client:
        client.delete(f"/works/{id}")
    desk.press("Control+Enter")
    expect(desk.page.locator("#notice")).to_contain_text("再写就是一部新作品")
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert shown(desk.work()["prompt"]) == text


def test_a_reload_before_the_first_word_loses_nothing(desk: Desk) -> None:
    desk.route("**/events", lambda route: route.abort())
    write(desk, None)
    desk.await_state("lost")
    desk.reload()
    desk.page.unroute("**/events")
    desk.await_length(len(OPENING) + 20)
    stop_and_compare(desk)
    desk.press("Control+z")
    assert desk.text == OPENING


@pytest.mark.parametrize("then", ["another text", "reload"])
def test_stop_holds_whatever_is_on_the_desk_when_the_service_hears_it(desk: Desk, then: str) -> None:
    tried = unheard_stop(desk)
    if then == "reload":
        desk.type("完")
        desk.reload()
    else:
        desk.press("Alt+n")
    eventually(desk, lambda: len(tried) > 1)
    desk.page.unroute("**/pause")
    eventually(desk, lambda: desk.works()[0]["state"] == "paused")
    desk.await_state("idle")
    assert desk.text.endswith("完") if then == "reload" else desk.text == ""


def test_write_takes_back_a_stop_that_the_service_did_not_hear(desk: Desk) -> None:
    unheard_stop(desk)
    text = desk.text
    desk.press("Control+Enter")
    desk.await_state("running")
    desk.page.unroute("**/pause")
    desk.await_length(len(text) + 20)
    desk.page.wait_for_timeout(1_500)  # as long as it would have been told
    desk.await_state("running")
    stop_and_compare(desk)
    assert desk.work()["prompt"] == OPENING


def test_stopped_before_the_answer_came_a_work_does_not_go_on(desk: Desk) -> None:
    finished(desk)
    held: list[Route] = []
    desk.route("**/continue", lambda route: held.append(route) if route.fetch().ok else None)
    desk.length(None)
    desk.press("Control+Enter")
    eventually(desk, lambda: held)
    desk.press("Escape")
    eventually(desk, lambda: desk.works()[0]["state"] == "paused")
    desk.await_state("paused")
    desk.press("Control+Enter")  # and from there
    desk.await_length(len(desk.text) + 20)
    until(lambda: len(desk.works()) == 1)
    stop_and_compare(desk)


def test_a_stop_heard_late_leaves_the_next_run_alone(desk: Desk) -> None:
    unheard_stop(desk)
    desk.type("。次日，")
    held = hold_making(desk, made=False)
    desk.press("Control+Enter")
    eventually(desk, lambda: held)
    desk.page.unroute("**/pause")
    eventually(desk, lambda: desk.works()[0]["state"] == "paused")
    desk.page.wait_for_timeout(200)
    desk.await_state("connecting")
    held[0].continue_()
    desk.await_state("running")
    until(lambda: len(desk.works()) == 1)
    stop_and_compare(desk)


def test_a_pause_that_was_refused_is_not_asked_for_again(desk: Desk) -> None:
    asked: list[str] = []
    body = json.dumps({"error": {"code": "wrong_state", "message": "the work is finished", "field": None}})

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=409, content_type="application/json", body=body)

    write(desk, None)
    desk.await_length(len(OPENING) + 20)
    desk.route("**/pause", refuse)
    desk.press("Control+z")
    desk.page.wait_for_timeout(1_500)
    assert len(asked) == 1
    desk.await_state("idle")


def test_a_work_in_the_making_is_given_up_with_its_text(desk: Desk) -> None:
    held = hold_making(desk, made=True)
    write(desk, None)
    eventually(desk, lambda: held)
    desk.press("Alt+n")
    desk.await_state("idle")
    eventually(desk, lambda: not desk.works())


def test_giving_one_work_up_leaves_the_next_one_alone(desk: Desk) -> None:
    hold_making(desk, made=False)
    write(desk, None)
    desk.await_state("connecting")
    desk.press("Escape")
    desk.await_state("idle")
    held = hold_making(desk, made=True)
    desk.press("Control+Enter")
    eventually(desk, lambda: held)
    desk.page.wait_for_timeout(1_000)  # the first one is looked for meanwhile
    (work,) = desk.works()
    held[0].fulfill(status=201, json=desk.work())
    desk.await_length(len(OPENING) + 20)
    assert desk.works()[0]["id"] == work["id"]
    stop_and_compare(desk)
