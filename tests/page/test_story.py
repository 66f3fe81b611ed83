"""The story's drawer: its fields, the notation that is sent, and what the model has in sight."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Desk, Server, until
from tests.page.test_looks import PHONE, overflow

pytestmark = pytest.mark.browser

STORY = "[前提]\n林冲逃出东京。\n\n[笔记 深2]\n风雪很大。\n\n[设定 序2: 山, 寨]\n山上有人。\n\n[设定 常在: 水]\n水在城东。\n"


def fill(desk: Desk) -> None:
    """The story above."""
    desk.page.click("#story")
    desk.page.locator("#story-drawer [name=premise]").fill("林冲逃出东京。")
    desk.page.locator("#story-drawer [name=note]").fill("风雪很大。")
    desk.page.locator("#story-drawer [name=depth]").fill("2")
    for keys, text, order, constant in (("山， 寨", "山上有人。", "2", False), ("水", "水在城东。", "", True)):
        desk.page.click("#lore-add")
        entry = desk.page.locator("#lore li").last
        entry.locator("[data-part=keys]").fill(keys)
        entry.locator("[data-part=text]").fill(text)
        entry.locator("[data-part=order]").fill(order)
        entry.locator("[data-part=constant]").set_checked(constant)
    desk.press("Escape")
    expect(desk.page.locator("#story")).to_have_attribute("aria-pressed", "true")


def test_a_story_is_written_with_and_what_is_in_sight_is_told(desk: Desk) -> None:
    fill(desk)
    desk.type("话说山上")
    desk.length(60)
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert desk.work()["parameters"]["story"] == STORY
    expect(desk.page.locator("#facts")).to_contain_text("在眼前：前提、笔记、设定: ")
    desk.page.click("#story")
    expect(desk.page.locator("#story-sight")).to_contain_text("在眼前：前提、笔记")
    desk.press("Escape")
    desk.press("Control+Enter")  # the same story continues the same work
    desk.await_length(len(desk.text) + 20)
    desk.await_state("finished")
    assert len(desk.works()) == 1


def test_a_story_stays_after_a_reload_and_with_its_text(desk: Desk) -> None:
    fill(desk)
    desk.page.wait_for_function("() => Object.values(localStorage).some(v => v.includes('水在城东'))")
    desk.reload()
    desk.page.click("#story")
    expect(desk.page.locator("#story-drawer [name=premise]")).to_have_value("林冲逃出东京。")
    expect(desk.page.locator("#lore li")).to_have_count(2)
    expect(desk.page.locator("#lore [data-part=constant]").last).to_be_checked()
    desk.press("Escape")
    desk.press("Alt+n")
    expect(desk.page.locator("#story")).to_have_attribute("aria-pressed", "false")
    desk.press("Alt+s")
    expect(desk.page.locator("#story-drawer [name=premise]")).to_have_value("")


def test_a_story_comes_with_its_work_to_another_browser(
    desk: Desk, served: Server, open_desk: Callable[..., Desk]
) -> None:
    fill(desk)
    desk.type("话说山上")
    desk.length(10)
    desk.press("Control+Enter")
    desk.await_state("finished")
    other = open_desk(served)
    other.page.click("#works")
    other.page.locator("#list .work").click()
    other.page.click("#story")
    expect(other.page.locator("#story-drawer [name=note]")).to_have_value("风雪很大。")
    expect(other.page.locator("#story-drawer [name=depth]")).to_have_value("2")
    expect(other.page.locator("#lore [data-part=keys]").first).to_have_value("山, 寨")
    expect(other.page.locator("#lore [data-part=order]").first).to_have_value("2")
    other.press("Escape")
    work, before = other.works()[0]["id"], len(other.text)
    other.press("Control+Enter")
    other.await_length(before + 5)
    other.await_state("finished")
    assert [one["id"] for one in other.works()] == [work]


def test_lines_before_the_first_heading_stay_there(desk: Desk) -> None:
    head = "扫描: 100\n预算: 150\n\n"
    made = desk.page.evaluate(
        """async (text) => { const { notationOf, storyOf } = await import("/page/story.js");
        const story = storyOf(text); return [story.outline, notationOf(story)] }""",
        head + STORY,
    )
    assert made == ["", head + STORY]


def test_the_drawer_keeps_the_lines_before_the_first_heading(desk: Desk, served: Server) -> None:
    story = "扫描: 100\n\n[前提]\n林冲逃出东京。\n"
    with served.client() as client:
        body = {"prompt": "话说", "story": story, "max_new_tokens": 5, "style": "novel"}
        assert client.post("/works", json=body).status_code == 201
    desk.page.click("#works")
    desk.page.locator("#list .work").click()
    desk.await_state("finished")
    desk.page.click("#story")
    desk.page.locator("#story-drawer [name=premise]").fill("林冲上山。")
    desk.press("Escape")
    desk.length(5)
    desk.press("Control+Enter")
    until(lambda: "上山" in desk.work()["parameters"]["story"])
    assert desk.work()["parameters"]["story"] == story.replace("逃出东京", "上山")
    desk.await_state("finished")


def test_lore_is_removed_and_an_empty_story_is_none(desk: Desk) -> None:
    fill(desk)
    desk.page.click("#story")
    for left in (1, 0):
        desk.page.locator("#lore button").first.click()
        expect(desk.page.locator("#lore li")).to_have_count(left)
    expect(desk.page.locator("#lore-add")).to_be_focused()
    for name in ("premise", "note"):
        desk.page.locator(f"#story-drawer [name={name}]").fill("")
    desk.press("Escape")
    expect(desk.page.locator("#story")).to_have_attribute("aria-pressed", "false")


def test_prose_that_begins_like_a_heading_stays_prose(desk: Desk) -> None:
    notations = desk.page.evaluate(
        """async () => { const { notationOf, storyOf, EMPTY } = await import("/page/story.js");
        const story = { ...EMPTY, premise: " [怪] \\n林冲。  ", lore: [{ keys: "", text: "无词", order: "", constant: false }] };
        const text = notationOf(story); return [text, notationOf(storyOf(text)), notationOf(EMPTY), notationOf(null)] }"""
    )
    assert notations == ["[前提]\n［怪]\n林冲。\n", "[前提]\n［怪]\n林冲。\n", None, None]


def test_a_story_that_is_refused_is_told_in_the_drawer(desk: Desk) -> None:
    desk.page.click("#story")
    desk.page.locator("#story-drawer [name=premise]").fill("林冲逃出东京。" * 40)
    desk.press("Escape")
    desk.type("话说")
    desk.press("Control+Enter")
    expect(desk.page.locator("#notice")).to_contain_text("故事的前提共")
    desk.await_state("idle")
    desk.page.click("#story")
    expect(desk.page.locator("#story-wrong")).to_contain_text("最多放")
    desk.page.locator("#story-drawer [name=premise]").fill("林冲。")
    expect(desk.page.locator("#story-wrong")).to_be_empty()


def test_a_complaint_of_the_service_leaves_with_its_text_and_with_the_next_write(desk: Desk) -> None:
    desk.page.click("#story")
    desk.page.locator("#story-drawer [name=premise]").fill("林冲逃出东京。" * 40)
    desk.press("Escape")
    desk.type("话说")
    desk.length(10)
    wrong = desk.page.locator("#story-wrong")
    desk.press("Control+Enter")
    expect(wrong).to_contain_text("最多放")
    desk.press("Alt+n")
    expect(wrong).to_be_empty()
    desk.page.click("#works")
    desk.page.locator("#list .work").click()
    desk.press("Control+Enter")
    expect(wrong).to_contain_text("最多放")
    desk.route("**/works", lambda route: route.abort(), times=1)
    desk.press("Control+Enter")
    expect(wrong).to_be_empty()
    desk.press("Escape")


def test_what_has_no_room_is_told(desk: Desk) -> None:
    fill(desk)
    window: dict[str, Any] = {"index": 0, "start": 0, "text_start": 0, "slides": 0}
    window["story"] = {"in_sight": ["前提"], "left_out": ["设定: 山"]}
    events = (
        'id: 0:0\nevent: state\ndata: {"state":"running","error":null}\n\n'
        'id: 1:1\nevent: token\ndata: {"index":0,"text":"山","token_ids":[1],"finish_reason":null}\n\n'
        f"id: 1:1\nevent: window\ndata: {json.dumps(window)}\n\n"
    )
    desk.route("**/events", lambda r: r.fulfill(content_type="text/event-stream", body=events), times=1)
    desk.type("话说")
    desk.length(None)
    desk.press("Control+Enter")
    desk.await_length(3)
    desk.page.click("#story")
    expect(desk.page.locator("#story-sight")).to_contain_text("放不下：设定: 山")
    desk.press("Escape")
    desk.press("Escape")


def test_the_drawer_fits_a_phone(served: Server, open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(served, **{**PHONE, "viewport": {"width": 375, "height": 740}})
    desk.page.tap("#story")
    desk.page.tap("#lore-add")
    assert overflow(desk) <= 0
    for field in desk.page.locator("#story-drawer :is(input, textarea, button)").all():
        box = field.bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 375


def test_the_chapters_of_an_outline_are_written_from_nothing(desk: Desk) -> None:
    outline = "[第一回 风雪] 20-40字\n林冲夜宿山神庙。\n\n[第二回 上山] 20-40字\n林冲上山。"
    desk.page.click("#story")
    desk.page.locator("#story-drawer [name=note]").fill("风雪很大。")
    desk.page.locator("#story-drawer [name=depth]").fill("0")
    desk.page.locator("#story-drawer [name=outline]").fill(outline)
    desk.press("Escape")
    desk.press("Control+Enter")
    desk.await_state("finished")
    expect(desk.page.locator("#status")).to_have_text("写完了")
    assert desk.work()["parameters"]["story"] == f"[笔记 深0]\n风雪很大。\n\n{outline}\n"
    lines = desk.text.split("\n")
    assert "第一回 风雪" in lines
    assert "第二回 上山" in lines[lines.index("第一回 风雪") + 1 :]
    expect(desk.page.locator("#facts")).to_contain_text("在眼前：笔记、第")
    desk.page.click("#story")
    expect(desk.page.locator("#story-drawer [name=outline]")).to_have_value(outline)
    desk.press("Escape")
    desk.press("Control+Enter")
    expect(desk.page.locator("#notice")).to_contain_text("正文里提纲的各章都写完了")
    assert len(desk.works()) == 1
    desk.page.click("#story")
    desk.page.locator("#story-drawer [name=outline]").fill(f"{outline}\n\n[第三回 下山] 20-40字\n林冲下山。")
    desk.press("Escape")
    desk.press("Control+Enter")
    expect(desk.page.locator("#text")).to_contain_text("第三回 下山")
    desk.await_state("finished")


def test_three_ways_are_short_with_an_outline(desk: Desk) -> None:
    desk.page.click("#story")
    desk.page.locator("#story-drawer [name=note]").fill("风雪很大。")
    desk.page.locator("#story-drawer [name=outline]").fill("[第一回 风雪] 200-400字\n林冲夜宿山神庙。")
    desk.press("Escape")
    desk.page.click("#three")
    expect(desk.page.locator("#notice")).to_contain_text("先写几个字")
    desk.type("话说山上")
    desk.length(10)
    with desk.page.expect_request("**/generate") as asked:
        desk.page.click("#three")
    assert asked.value.post_data_json["story"] == "[笔记]\n风雪很大。\n"
    expect(desk.page.locator(".card")).to_have_count(3)
    expect(desk.page.locator(".card.writing")).to_have_count(0)
    assert all(0 < len(card) < 60 for card in desk.page.locator(".card").all_inner_texts())
