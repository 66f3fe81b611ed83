"""Two tabs with one document: carets stay, and no words are lost in silence."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Desk, Server, until

pytestmark = pytest.mark.browser


@pytest.fixture
def tabs(desk: Desk, served: Server, open_desk: Callable[..., Desk]) -> tuple[Desk, Desk]:
    desk.type("甲乙丙。")
    desk.page.wait_for_function("() => Object.keys(localStorage).some(k => k.startsWith('cpm-gen:document:'))")
    other = open_desk(served, desk.page.context)
    until(lambda: other.text == desk.text)
    return desk, other


def test_an_edit_in_one_tab_leaves_the_caret_of_the_other(tabs: tuple[Desk, Desk]) -> None:
    one, other = tabs
    other.page.locator("#text").focus()
    other.press("Control+Home")
    other.press("ArrowRight")
    other.press("ArrowRight")
    one.type("丁。")
    until(lambda: other.text == "甲乙丙。丁。")
    other.page.keyboard.insert_text("【二】")
    assert other.text == "甲乙【二】丙。丁。"
    until(lambda: one.text == "甲乙【二】丙。丁。")
    one.page.keyboard.insert_text("戊")  # its caret was behind the edit
    assert one.text == "甲乙【二】丙。丁。戊"
    assert one.page.locator("#notice").inner_text() == ""
    one.page.wait_for_timeout(1500)
    assert other.page.locator("#notice").inner_text() == ""
    one.press("Control+z")  # also what came from the other tab
    one.press("Control+z")
    assert one.text == "甲乙丙。丁。"


def test_words_written_in_two_tabs_at_once_are_kept_and_it_is_said(tabs: tuple[Desk, Desk]) -> None:
    one, other = tabs
    one.type("第一页。")
    other.type("第二页。")
    until(lambda: one.page.wait_for_timeout(50) or one.text == other.text)
    loser = one if one.text.endswith("第二页。") else other
    lost = "甲乙丙。第一页。" if loser is one else "甲乙丙。第二页。"
    expect(loser.page.locator("#notice")).to_contain_text("已存成草稿")
    loser.press("Control+z")
    assert loser.text == lost
    loser.press("Control+Shift+z")
    loser.page.click("#works")
    items = loser.page.locator("#list li")
    expect(items).to_have_count(2)
    items.filter(has_text=lost[-4:]).locator(".work").click()
    assert loser.text == lost


def test_what_two_tabs_did_not_change_is_not_kept_twice(tabs: tuple[Desk, Desk]) -> None:
    one, other = tabs
    one.length(30)
    one.press("Control+Enter")
    one.await_state("finished")
    other.await_state("finished")
    until(lambda: one.text == other.text)
    one.type("完。")
    until(lambda: one.text == other.text)
    other.reload()
    one.reload()
    assert one.text == other.text
    drafts = "Object.keys(localStorage).filter(k => k.startsWith('cpm-gen:document:')).length"
    assert one.page.evaluate(drafts) == 1


def test_a_locked_line_stays_locked_when_the_other_tab_adds_a_line_above(tabs: tuple[Desk, Desk]) -> None:
    one, other = tabs
    other.page.click("#forms")
    other.page.locator("[name=by][value=own]").check()
    other.page.locator("#form-picker [name=form]").fill("3\n3\n3\n3\n")
    expect(other.page.locator("#form-pattern li")).to_have_count(4)
    other.page.click("#form-use")
    other.type("\n丁戊己\n庚辛壬")
    other.page.locator("#handles button").nth(1).click()
    other.page.locator("#line-menu [data-act=lock]").click()
    expect(one.page.locator("#handles .locked")).to_have_count(1)
    other.page.locator("#text").focus()
    other.press("Control+Home")
    other.page.keyboard.insert_text("子丑寅\n")
    for tab in (other, one):
        expect(tab.page.locator("#handles button")).to_have_count(4)
        expect(tab.page.locator("#handles button").nth(2)).to_have_class(re.compile("locked"))
        expect(tab.page.locator("#handles .locked")).to_have_count(1)
