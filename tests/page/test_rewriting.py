"""改写: other ways to write what is selected, taken by click or number, and undone."""

import json
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Desk

pytestmark = pytest.mark.browser

BEFORE, SENTENCE, AFTER = "第二天一早，天还没有亮。", "推开门，院子里积雪很厚。", "他站了一会儿，走了。"
TEXT = BEFORE + SENTENCE + AFTER


def select(desk: Desk, begin: int, end: int) -> None:
    desk.page.evaluate(
        """([a, b]) => { const node = document.getElementById('text').firstChild;
        document.getElementById('text').focus({preventScroll: true}); getSelection().setBaseAndExtent(node, a, node, b) }""",
        [begin, end],
    )


def ways(desk: Desk) -> list[str]:
    """What is offered."""
    expect(desk.page.locator("#choices-list li").first).to_be_visible()
    return list(desk.page.locator("#choices-list span").all_inner_texts())


def test_a_sentence_is_rewritten_by_key_and_undone(desk: Desk) -> None:
    desk.type(TEXT)
    expect(desk.page.locator("#rewrite")).to_be_hidden()
    select(desk, len(BEFORE), len(BEFORE + SENTENCE))
    expect(desk.page.locator("#rewrite")).to_be_visible()
    desk.press("Alt+g")
    offered = ways(desk)
    assert 2 <= len(offered) <= 8
    assert desk.painted("place") == [[len(BEFORE), len(BEFORE + SENTENCE)]]
    assert all("−" in score for score in desk.page.locator("#choices-list small").all_inner_texts())
    desk.press("2")
    assert desk.text == BEFORE + offered[1] + AFTER
    assert desk.words == offered[1]
    assert desk.painted("place") == []
    expect(desk.page.locator("#choices")).to_be_hidden()
    desk.press("Control+z")
    assert desk.text == TEXT
    desk.press("Control+Shift+z")
    assert desk.text == BEFORE + offered[1] + AFTER


def test_a_way_is_taken_by_click_and_others_are_asked_for(desk: Desk) -> None:
    desk.type(TEXT)
    select(desk, len(BEFORE), len(BEFORE + SENTENCE))
    desk.page.click("#rewrite")
    first = ways(desk)
    desk.page.click("#choices-again")
    expect(desk.page.locator("#choices-said")).to_contain_text("点选")
    second = ways(desk)
    assert second != first
    desk.page.locator("#choices-list button").last.click()
    assert desk.text == BEFORE + second[-1] + AFTER


def test_letters_outside_the_first_plane_are_counted_as_the_service_counts(desk: Desk) -> None:
    desk.type("🌊🌊" + TEXT)
    select(desk, 4 + len(BEFORE), 4 + len(BEFORE + SENTENCE))
    desk.press("Alt+g")
    offered = ways(desk)
    desk.press("1")
    assert desk.text == "🌊🌊" + BEFORE + offered[0] + AFTER


def test_white_space_at_the_edges_stays(desk: Desk) -> None:
    desk.type(BEFORE + "\n" + SENTENCE + "\n" + AFTER)
    select(desk, len(BEFORE), len(BEFORE + SENTENCE) + 2)
    desk.press("Alt+g")
    offered = ways(desk)
    desk.press("1")
    assert desk.text == BEFORE + "\n" + offered[0] + "\n" + AFTER


def test_escape_and_an_edit_dismiss_the_ways(desk: Desk) -> None:
    desk.type(TEXT)
    for leave in (lambda: desk.press("Escape"), lambda: desk.type("完")):
        select(desk, len(BEFORE), len(BEFORE + SENTENCE))
        desk.press("Alt+g")
        ways(desk)
        leave()
        expect(desk.page.locator("#choices")).to_be_hidden()
        assert desk.painted("place") == []
    assert desk.text == TEXT + "完"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [(500, "internal", "服务拒绝了请求（500）"), (503, "engine_failed", "模型出了问题"), (0, "", "连不上服务")],
)
def test_a_service_that_fails_is_told_and_asked_again(desk: Desk, status: int, code: str, words: str) -> None:
    desk.type(TEXT)
    body = {"error": {"code": code, "message": "as the test wants it", "field": None}}
    answer: dict[str, Any] = {"status": status, "content_type": "application/json", "body": json.dumps(body)}
    desk.route("**/rewrite", lambda r: r.fulfill(**answer) if status else r.abort(), times=1)
    select(desk, len(BEFORE), len(BEFORE + SENTENCE))
    desk.press("Alt+g")
    expect(desk.page.locator("#choices-said")).to_contain_text(words)
    assert desk.text == TEXT
    desk.page.click("#choices-again")
    ways(desk)


def test_a_selection_that_is_too_long_is_refused_with_words(desk: Desk) -> None:
    desk.type(TEXT * 10)
    select(desk, 0, len(TEXT) * 9)
    desk.press("Alt+g")
    expect(desk.page.locator("#choices-said")).to_have_class("wrong")
    expect(desk.page.locator("#choices-said")).to_contain_text("不合要求")
    assert desk.text == TEXT * 10
