"""The drawer: works of the service and drafts of the browser."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Desk, Server, shown, until

pytestmark = pytest.mark.browser


def written(desk: Desk, opening: str) -> str:
    desk.type(opening)
    desk.length(30)
    desk.press("Control+Enter")
    desk.await_state("finished")
    return desk.text


def test_works_are_listed_opened_and_exported(desk: Desk, tmp_path: Path) -> None:
    first = written(desk, "第一篇从这里开始，")
    desk.press("Alt+n")
    assert desk.text == ""
    second = written(desk, "第二篇从这里开始，")
    desk.page.click("#works")
    items = desk.page.locator("#list li")
    expect(items).to_have_count(2)
    expect(items.nth(0)).to_contain_text("第二篇")
    expect(items.nth(0)).to_have_attribute("aria-current", "true")
    expect(items.nth(1)).to_contain_text("已写完")
    with desk.page.expect_download() as download:
        items.nth(1).get_by_role("button", name="导出").click()
    assert download.value.suggested_filename.startswith("第一篇从这里开始")
    download.value.save_as(tmp_path / "text.txt")
    assert (tmp_path / "text.txt").read_text(encoding="utf-8") == first
    items.nth(1).locator(".work").click()
    expect(desk.page.locator("#drawer")).to_be_hidden()
    assert desk.text == first
    assert desk.painted("model") == [[9, len(first)]]
    with desk.page.expect_download() as download:
        desk.press("Control+s")
    download.value.save_as(tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_text(encoding="utf-8") == first
    desk.press("Control+Enter")  # the work that was opened goes on
    desk.await_length(len(first) + 10)
    desk.await_state("finished")
    assert sorted(w["prompt"] for w in desk.works()) == sorted(["第一篇从这里开始，", "第二篇从这里开始，"])
    assert second.startswith("第二篇")


def test_older_works_come_page_by_page_though_some_go_meanwhile(desk: Desk, served: Server) -> None:
    with served.client() as client:
        made = [
            client.post("/works", json={"prompt": f"第{n}篇，", "max_new_tokens": 1}).json()["id"] for n in range(35)
        ]
        desk.page.click("#works")
        items = desk.page.locator("#list li")
        expect(items).to_have_count(30)
        for n in (5, 2):  # the one where the page ended, and one that was to come
            assert client.delete(f"/works/{made[n]}").status_code == 204
        desk.page.click("#older")
        expect(items).to_have_count(34)
        expect(items.last).to_contain_text("第0篇")
        expect(desk.page.locator("#older")).to_be_hidden()
        expect(desk.page.locator("#works-wrong")).to_be_empty()


def test_another_browser_opens_a_work_with_its_hands_while_it_is_written(
    desk: Desk, served: Server, open_desk: Callable[..., Desk]
) -> None:
    first = written(desk, "两个人写的，")
    desk.type("【我】")
    desk.length(None)
    desk.press("Control+Enter")
    desk.await_length(len(first) + 40)
    until(lambda: len(desk.works()) == 1)
    other = open_desk(served)
    other.page.click("#works")
    other.page.locator("#list .work").click()
    other.await_state("running")
    other.await_length(len(first) + 80)
    assert other.painted("model")[0] == [6, len(first)]
    assert other.painted("model")[1][0] == len(first) + 3
    other.page.click("#stop")
    other.await_state("paused")
    desk.await_state("paused")
    until(lambda: desk.text == other.text)


def test_a_work_is_deleted_after_a_question(desk: Desk) -> None:
    written(desk, "要删去的，")
    desk.page.click("#works")
    desk.page.get_by_role("button", name="删除").click()
    question = desk.page.locator("#confirm")
    expect(question).to_contain_text("要删去的")
    question.get_by_role("button", name="取消").click()
    assert len(desk.works()) == 1
    desk.page.locator("#list").get_by_role("button", name="删除").click()
    question.get_by_role("button", name="删除").click()
    expect(desk.page.locator("#list li")).to_have_count(0)
    assert desk.works() == []
    desk.press("Escape")
    assert desk.text == ""


def test_a_work_is_deleted_while_it_is_written(desk: Desk) -> None:
    desk.type("要删去的，")
    desk.length(None)
    desk.press("Control+Enter")
    desk.await_length(40)
    desk.page.click("#works")
    desk.page.locator("#list").get_by_role("button", name="删除").click()
    desk.page.locator("#confirm").get_by_role("button", name="删除").click()
    expect(desk.page.locator("#list li")).to_have_count(0)
    assert desk.works() == []
    assert desk.text == ""
    desk.await_state("idle")


@pytest.mark.parametrize("edit", ["", "【改】"])
def test_a_text_whose_work_was_not_deleted_stays(desk: Desk, edit: str) -> None:
    text = written(desk, "要删去的，") + edit
    if edit:
        desk.type(edit)
    desk.route("**/works/work-*", lambda route: route.abort())
    desk.page.click("#works")
    desk.page.locator("#list").get_by_role("button", name="删除").click()
    desk.page.locator("#confirm").get_by_role("button", name="删除").click()
    expect(desk.page.locator("#works-wrong")).to_contain_text("连不上服务")
    desk.press("Escape")
    assert desk.text == text
    desk.reload()
    assert desk.text == text


def test_drafts_are_kept_in_the_browser_and_edited_works_stand_once(desk: Desk) -> None:
    text = written(desk, "改动过的，")
    desk.type("【改】")
    desk.press("Alt+n")
    desk.type("还没有写的草稿")
    desk.press("Alt+w")
    items = desk.page.locator("#list li")
    expect(items).to_have_count(2)
    expect(items.nth(0)).to_contain_text("草稿，仅在此浏览器")
    expect(items.nth(1)).to_contain_text("已改动")
    items.nth(1).locator(".work").click()
    assert desk.text == text + "【改】"
    desk.reload()
    assert desk.text == text + "【改】"
    desk.press("Control+z")  # what was typed before a reload stands
    desk.page.click("#works")
    items.nth(1).locator(".work").click()
    assert desk.text == "还没有写的草稿"


def test_a_work_deleted_elsewhere_leaves_the_text(desk: Desk, served: Server) -> None:
    desk.type("话说")
    desk.length(None)
    desk.press("Control+Enter")
    desk.await_length(40)
    with served.client() as client:
        client.delete(f"/works/{desk.works()[0]['id']}")
    expect(desk.page.locator("#notice")).to_contain_text("已不在服务里")
    desk.await_state("idle")
    kept = desk.text
    desk.length(20)
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert desk.text.startswith(kept)
    assert shown(desk.work()["prompt"]) == kept


def test_a_work_that_another_client_made_opens_and_is_not_replaced(desk: Desk, served: Server) -> None:
    with served.client() as client:
        body = {"prompt": ["春江潮水"], "style": "lyric", "max_new_tokens": 30, "temperature": 0.5}
        made = client.post("/works", json=body).json()["id"]
        until(lambda: client.get(f"/works/{made}").json()["state"] == "finished")
    desk.page.click("#works")
    desk.page.locator("#list .work").click()
    desk.await_state("finished")
    assert desk.text.startswith("春江潮水\n")
    assert desk.page.locator("[name=temperature]").input_value() == "0.5"
    desk.type("改")
    desk.length(20)
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert made in {w["id"] for w in desk.works()}
