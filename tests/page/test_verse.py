"""Verse in a form: the picker, the pattern over the text, faults while a person types, locked lines, the menu of a line."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.page.conftest import Desk, Server, until
from tests.page.test_editor import compose
from tests.page.test_looks import PHONE, overflow

pytestmark = pytest.mark.browser

GOOD = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
OWN = "韵: 十三辙\n7a\n7a\n"


def choose(desk: Desk, form: str) -> None:
    """By name and variant, or in notation."""
    desk.page.click("#forms")
    if "\n" in form:
        desk.page.locator("[name=by][value=own]").check()
        desk.page.locator("#form-picker [name=form]").fill(form)
    else:
        name, _, variant = form.partition(" ")
        desk.page.locator("#form-search").fill(name)
        desk.page.locator("#form-names [role=option]").first.wait_for()
        desk.press("ArrowDown") if not desk.page.locator("#form-names [aria-selected=true]").count() else None
        if variant:
            desk.page.locator("#form-picker [name=variant]").select_option(variant)
    expect(desk.page.locator("#form-pattern li").first).to_be_visible()
    desk.page.click("#form-use")
    expect(desk.page.locator("#form-picker")).to_be_hidden()
    expect(desk.page.locator("#verse-said")).not_to_be_empty()


def faults(desk: Desk) -> list[list[int]]:
    return desk.painted("fault")


def await_said(desk: Desk, words: str) -> None:
    expect(desk.page.locator("#verse-said")).to_contain_text(words)


def checked(server: Server, form: str, text: str) -> list[dict[str, Any]]:
    with server.client() as client:
        answer = client.post("/forms/check", json={"form": form, "text": text})
        assert answer.status_code == 200
        return list(answer.json()["faults"])


def write_good(desk: Desk) -> None:
    """Type a verse that keeps to its form."""
    choose(desk, "五绝 仄起")
    desk.type(GOOD)
    await_said(desk, "合律")


def test_a_form_is_found_by_its_name_and_written_without_a_word(desk: Desk, served: Server) -> None:
    desk.press("Alt+t")
    desk.page.locator("#form-search").fill("七绝")
    expect(desk.page.locator("#form-names [role=option]")).to_have_text(["七绝"])
    desk.page.locator("#form-picker [name=variant]").select_option("平起入韵")
    expect(desk.page.locator("#form-pattern li")).to_have_text(["⊙○⊙●●○○a，⊙●○○●●○a。", "⊙●⊙○○●●，⊙○⊙●●○○a。"])
    desk.press("Enter")
    expect(desk.page.locator("#verse-form")).to_have_text("七绝 平起入韵")
    await_said(desk, "共 2 行")
    expect(desk.page.locator("#slots i.free:not(.sign)")).to_have_count(28)
    expect(desk.page.locator("#slots [data-label=a]")).to_have_count(3)
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert checked(served, "七绝 平起入韵", desk.text) == []
    await_said(desk, "合律")
    expect(desk.page.locator("#slots i")).to_have_count(28)
    expect(desk.page.locator("#slots i.free")).to_have_count(0)
    assert faults(desk) == []
    work = desk.work()
    assert (work["prompt"], work["parameters"]["style"]) == ("", "lyric")
    expect(desk.page.locator("#write")).to_have_text("重写")


def test_a_form_is_found_by_another_name(desk: Desk) -> None:
    desk.page.click("#forms")
    desk.page.locator("#form-search").fill("百字")
    option = desk.page.locator("#form-names [role=option]")
    expect(option).to_have_text(["念奴娇（百字令）"])
    option.click()
    expect(desk.page.locator("#form-search")).to_have_value("念奴娇")
    desk.page.click("#form-use")
    expect(desk.page.locator("#verse-form")).to_have_text("念奴娇 1")
    await_said(desk, "共 8 行")


def test_a_list_of_names_is_walked_with_arrows(desk: Desk) -> None:
    desk.page.click("#forms")
    desk.page.locator("#form-search").fill("浣溪")
    expect(desk.page.locator("#form-names li").first).to_be_visible()
    desk.press("ArrowDown")
    chosen = desk.page.locator("#form-names [aria-selected=true]")
    expect(chosen).to_have_count(1)
    expect(desk.page.locator("#form-search")).to_have_attribute(
        "aria-activedescendant", str(chosen.get_attribute("id"))
    )
    desk.press("Enter")  # takes the name, and the dialog stays
    expect(desk.page.locator("#form-search")).to_have_value(chosen.inner_text())
    desk.press("Escape")
    expect(desk.page.locator("#form-picker")).to_be_hidden()
    expect(desk.page.locator("#verse")).to_be_hidden()


def test_mistakes_of_the_notation_are_told_with_their_line(desk: Desk, served: Server) -> None:
    desk.page.click("#forms")
    desk.page.locator("[name=by][value=own]").check()
    notation = desk.page.locator("#form-picker [name=form]")
    notation.fill("7a\n5")
    wrong = desk.page.locator("#form-wrong")
    expect(wrong).to_contain_text("体式第 1 行：韵“a”只用了一次")
    notation.fill("7&\n7")
    expect(wrong).to_contain_text("体式第 1 行第 2 字：")
    notation.fill(OWN)
    expect(wrong).to_be_empty()
    desk.page.locator("#form-picker [name=acrostic]").fill("春江")
    expect(desk.page.locator("#form-pattern li").first).to_contain_text("春")
    desk.page.click("#form-use")
    desk.press("Control+Enter")
    desk.await_state("finished")
    lines = desk.text.strip().split("\n")
    assert [line[0] for line in lines] == ["春", "江"]
    assert checked(served, OWN, desk.text) == []


def test_words_and_rhyme_book_are_asked_for(desk: Desk) -> None:
    desk.page.click("#forms")
    desk.page.locator("#form-search").fill("浣溪沙")
    desk.page.locator("#form-picker [name=include]").fill("黄昏，明月")
    desk.page.locator("#form-picker [name=exclude]").fill("愁 泪")
    desk.page.locator("#form-picker [name=rhyme_book]").select_option("中华通韵")
    desk.page.click("#form-use")
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert "黄昏" in desk.text
    assert "明月" in desk.text
    assert not set("愁泪") & set(desk.text)
    assert desk.work()["parameters"]["form"].startswith("韵: 中华通韵\n必含: 黄昏, 明月\n禁用: 愁, 泪\n")


def test_faults_are_underlined_while_a_person_types(desk: Desk) -> None:
    choose(desk, "五绝 仄起")
    desk.type("白日依山尽，")
    await_said(desk, "末行未完")
    assert faults(desk) == []  # what is not written yet is no fault
    desk.type("黄河入海河。")
    await_said(desk, "第 1 行：“河”用了两次")
    assert [10, 11] in faults(desk)
    expect(desk.page.locator("#slots .wrong").first).to_be_visible()
    for _ in range(2):
        desk.press("Backspace")
    desk.page.keyboard.insert_text("流。")
    await_said(desk, "还差 1 行")
    assert faults(desk) == []
    desk.type("\n欲穷千里目，更上一月楼。")
    await_said(desk, "第 2 行：“月”不是平声")
    assert faults(desk)
    desk.page.click("#verse-fault")
    selected = desk.page.evaluate("getSelection().toString()")
    assert selected == "月"


def test_a_text_that_leaves_its_form_and_comes_back(desk: Desk) -> None:
    write_good(desk)
    desk.type("\n多出的一行")
    await_said(desk, "体式有 2 行，这里有 3 行")
    desk.press("Control+z")
    await_said(desk, "合律")
    assert desk.text == GOOD


def test_an_input_method_is_not_disturbed(desk: Desk) -> None:
    choose(desk, "五绝 仄起")
    asked: list[str] = []
    desk.page.on("request", lambda r: asked.append(r.post_data or "") if r.url.endswith("/forms/check") else None)
    session = desk.page.context.new_cdp_session(desk.page)
    desk.page.locator("#text").focus()
    compose(session, "b", "bai", "bai ri")
    desk.page.wait_for_timeout(700)
    assert desk.text == "bai ri"
    assert asked == []
    assert faults(desk) == []
    session.send("Input.insertText", {"text": "白日"})
    expect(desk.page.locator("#title")).to_have_text("白日")
    compose(session, "yi", "yi shan jin")
    desk.page.wait_for_timeout(700)
    assert desk.text == "白日yi shan jin"
    session.send("Input.insertText", {"text": "依山尽，"})
    until(lambda: desk.page.wait_for_timeout(50) or any("依山尽" in body for body in asked))
    assert desk.text == "白日依山尽，"
    assert not any("yi" in body for body in asked)
    assert faults(desk) == []


def test_the_pattern_stands_below_the_letters(desk: Desk) -> None:
    write_good(desk)
    expect(desk.page.locator("#slots i.free")).to_have_count(0)
    places = desk.page.evaluate(
        """() => { const node = document.getElementById('text').firstChild, range = document.createRange(), out = [];
        const marks = [...document.querySelectorAll('#slots i')].map(i => i.getBoundingClientRect());
        const han = [...node.data].map((c, n) => [c, n]).filter(([c]) => /\\p{Script=Han}/u.test(c));
        return han.map(([, n], k) => { range.setStart(node, n); range.setEnd(node, n + 1);
          const a = range.getBoundingClientRect(), b = marks[k];
          return [Math.abs(a.left + a.width / 2 - b.left - b.width / 2), b.top - a.top - a.height / 2] }) }"""
    )
    assert len(places) == 20
    assert all(aside < 2 and 4 < below < 30 for aside, below in places)


def test_form_locks_and_lead_in_stay_after_a_reload(desk: Desk) -> None:
    desk.page.click("#forms")
    desk.page.locator("#form-search").fill("五绝")
    desk.page.locator("#form-picker [name=prompt]").fill("登鹳雀楼")
    desk.page.click("#form-use")
    desk.type(GOOD)
    await_said(desk, "合律")
    desk.press("Alt+l")
    expect(desk.page.locator("#line-menu [data-act=ways]")).to_be_focused()
    desk.press("ArrowDown")
    desk.press("Enter")
    expect(desk.page.locator("#handles button").nth(1)).to_have_class(re.compile("locked"))
    desk.page.wait_for_function("() => Object.values(localStorage).some(v => v.includes('\"locks\":[1]'))")
    desk.reload()
    expect(desk.page.locator("#verse-form")).to_have_text("五绝 仄起")
    await_said(desk, "合律")
    expect(desk.page.locator("#handles .locked")).to_have_count(1)
    assert desk.text == GOOD
    desk.page.click("#verse-form")
    expect(desk.page.locator("#form-picker [name=prompt]")).to_have_value("登鹳雀楼")
    expect(desk.page.locator("#form-search")).to_have_value("五绝")
    desk.page.click("#form-free")
    expect(desk.page.locator("#verse")).to_be_hidden()
    expect(desk.page.locator("#slots i")).to_have_count(0)
    assert desk.text == GOOD


def test_the_menu_of_a_line_does_not_wait_for_the_next_frame(desk: Desk) -> None:
    choose(desk, "五绝 仄起")
    desk.page.evaluate("() => { window.requestAnimationFrame = () => 0 }")  # no frame comes
    desk.type(GOOD)
    await_said(desk, "合律")
    desk.press("Alt+l")
    expect(desk.page.locator("#line-menu [data-act=ways]")).to_be_focused(timeout=5_000)


def test_locks_move_with_their_lines(desk: Desk) -> None:
    moved = desk.page.evaluate(
        """async () => { const { moved } = await import("/page/verse.js");
        return [moved([1], ["a", "b"], ["x", "a", "b"]), moved([1], ["a", "b"], ["a", "c"]), moved([2], ["a", "b", "c"], ["a", "c"]),
          moved([1], ["a", "b"], []), moved([1], [], ["a", "b"]), moved([0, 2], ["a", "b", "c"], ["a", "x", "y", "c"])] }"""
    )
    assert moved == [[2], [1], [1], [1], [1], [0, 3]]


def test_the_menu_of_a_line_is_walked_with_keys_and_closed(desk: Desk) -> None:
    write_good(desk)
    menu = desk.page.locator("#line-menu")
    desk.page.locator("#handles button").first.click()
    expect(menu).to_be_visible()
    for _ in range(3):
        desk.press("ArrowDown")
    expect(menu.locator("[data-act=ways]")).to_be_focused()
    desk.press("End")
    expect(menu.locator("[data-act=rhymes]")).to_be_focused()
    desk.press("Escape")
    expect(menu).to_be_hidden()
    expect(desk.page.locator("#handles button").first).to_be_focused()
    desk.press("ArrowDown")
    expect(desk.page.locator("#handles button").nth(1)).to_be_focused()


def test_a_form_that_the_model_cannot_fill_is_told(desk: Desk) -> None:
    choose(desk, "5\n「龘」4\n")
    desk.press("Control+Enter")
    expect(desk.page.locator("#notice")).to_contain_text("词表里没有 龘 的词元")
    desk.await_state("idle")


def test_the_service_is_away_while_a_verse_is_checked(desk: Desk) -> None:
    choose(desk, "五绝 仄起")
    desk.route("**/forms/check", lambda route: route.abort())
    desk.type(GOOD.replace("流", "河"))
    desk.page.wait_for_timeout(800)
    assert faults(desk) == []
    assert desk.text == GOOD.replace("流", "河")
    desk.page.unroute("**/forms/check")
    await_said(desk, "处不合")  # it asks again by itself
    assert faults(desk)


def test_three_verses_side_by_side_take_the_place_of_the_text(desk: Desk, served: Server) -> None:
    choose(desk, "五绝 仄起")
    desk.type(GOOD)
    desk.page.click("#three")
    expect(desk.page.locator(".card")).to_have_count(3)
    expect(desk.page.locator(".card.writing")).to_have_count(0)
    desk.press("2")
    assert desk.text != GOOD
    assert checked(served, "五绝 仄起", desk.text) == []
    desk.press("Control+z")
    desk.press("Control+z")
    assert desk.text == GOOD


def test_a_verse_is_opened_from_the_list_with_its_form(
    desk: Desk, served: Server, open_desk: Callable[..., Desk]
) -> None:
    choose(desk, "五绝 仄起")
    desk.press("Control+Enter")
    desk.await_state("finished")
    other = open_desk(served)
    other.page.click("#works")
    other.page.locator("#list .work").click()
    expect(other.page.locator("#verse-form")).to_have_text("五绝 仄起")
    await_said(other, "合律")
    assert other.text == desk.text


def test_a_text_without_a_prompt_is_written_when_asked(desk: Desk) -> None:
    desk.length(20)
    desk.press("Control+Enter")
    expect(desk.page.locator("#notice")).to_contain_text("先写几个字")
    desk.page.get_by_role("button", name="不用开头，直接写").click()
    desk.await_state("finished")
    work = desk.work()
    assert work["parameters"]["unconditional"] is True
    assert desk.text == work["choices"][0]["text"].replace("<eod>", "\n")
    desk.press("Control+Enter")
    desk.await_length(len(desk.text) + 5)
    desk.await_state("finished")
    assert len(desk.works()) == 1


def test_a_phone_shows_a_verse_without_scrolling_sideways(served: Server, open_desk: Callable[..., Desk]) -> None:
    phone = {**PHONE, "viewport": {"width": 375, "height": 740}}
    desk = open_desk(served, **phone)
    desk.page.tap("#forms")
    assert overflow(desk) <= 0
    desk.page.locator("#form-search").fill("念奴娇")
    expect(desk.page.locator("#form-pattern li").first).to_be_visible()
    assert overflow(desk) <= 0
    desk.page.tap("#form-use")
    await_said(desk, "共")
    assert overflow(desk) <= 0
    desk.page.tap("#write")
    desk.await_state("finished")
    await_said(desk, "合律")
    assert overflow(desk) <= 0
    handle = desk.page.locator("#handles button").last
    box = handle.bounding_box()
    assert box
    assert box["x"] + box["width"] <= 375
    assert min(box["width"], box["height"]) >= 36
    handle.tap()
    expect(desk.page.locator("#line-menu")).to_be_visible()
    menu = desk.page.locator("#line-menu").bounding_box()
    assert menu
    assert menu["x"] >= 0
    assert menu["x"] + menu["width"] <= 375
    assert menu["y"] + menu["height"] <= 740
    assert overflow(desk) <= 0
    for button in ("#forms", "#story", "#write", "#three"):
        box = desk.page.locator(button).bounding_box()
        assert box, button
        assert box["x"] + box["width"] <= 375, button


def open_menu(desk: Desk, line: int, act: str) -> None:
    desk.page.locator("#handles button").nth(line - 1).click()
    desk.page.locator(f"#line-menu [data-act={act}]").click()


def offered(desk: Desk) -> list[str]:
    expect(desk.page.locator("#choices-list li").first).to_be_visible()
    return list(desk.page.locator("#choices-list span").all_inner_texts())


def test_a_line_is_written_in_other_ways_that_keep_to_the_form(desk: Desk, served: Server) -> None:
    write_good(desk)
    open_menu(desk, 2, "ways")
    expect(desk.page.locator("#choices-title")).to_have_text("换一句")
    ways = offered(desk)
    assert 2 <= len(ways) <= 8
    desk.press("2")
    first, second = desk.text.split("\n")
    assert (first, second.removesuffix("。")) == (GOOD.split("\n")[0], ways[1].removesuffix("。"))
    assert checked(served, "五绝 仄起", desk.text) == []
    await_said(desk, "合律")
    desk.press("Control+z")
    assert desk.text == GOOD


def test_a_rhyme_word_is_put_at_the_lines_end(desk: Desk, served: Server) -> None:
    write_good(desk)
    open_menu(desk, 2, "rhymes")
    words = offered(desk)
    assert len(words) > 8
    assert all(score.endswith("%") for score in desk.page.locator("#choices-list small").all_inner_texts())
    desk.page.locator("#choices-list button").nth(3).click()
    assert desk.text == GOOD.replace("楼", words[3])
    assert [f for f in checked(served, "五绝 仄起", desk.text) if f["kind"] in ("rhyme", "no_rhyme", "tone")] == []


def test_rhymes_that_the_service_refuses_are_told(desk: Desk) -> None:
    write_good(desk)
    body = {"error": {"code": "internal", "message": "as the test wants it", "field": None}}
    answer: dict[str, Any] = {"status": 500, "content_type": "application/json", "body": json.dumps(body)}
    desk.route("**/forms/rhymes", lambda route: route.fulfill(**answer), times=1)
    open_menu(desk, 1, "rhymes")
    said = desk.page.locator("#choices-said")
    expect(said).to_contain_text("服务拒绝了请求（500）")
    desk.page.click("#menu-button")
    desk.page.click("#language")
    expect(said).to_contain_text("(500)")
    expect(said).to_have_class("wrong")
    desk.press("Escape")
    expect(desk.page.locator("#choices")).to_be_hidden()
    assert desk.text == GOOD


def test_a_locked_line_stays_when_the_rest_is_written_again(desk: Desk, served: Server) -> None:
    write_good(desk)
    open_menu(desk, 2, "lock")
    expect(desk.page.locator("#handles button").nth(1)).to_have_attribute("aria-label", re.compile("已锁定"))
    desk.press("Alt+r")
    desk.page.wait_for_function("t => !document.getElementById('text').textContent.startsWith(t)", arg="白日依山尽")
    desk.await_state("finished")
    first, second = desk.text.strip().split("\n")
    assert second == GOOD.split("\n")[1]
    assert first != GOOD.split("\n")[0]
    assert checked(served, "五绝 仄起", desk.text) == []
    expect(desk.page.locator("#handles .locked")).to_have_count(1)
    desk.press("Control+Enter")  # and once again
    desk.page.wait_for_function("t => !document.getElementById('text').textContent.startsWith(t)", arg=first)
    desk.await_state("finished")
    assert desk.text.strip().split("\n")[1] == second
    open_menu(desk, 2, "lock")
    expect(desk.page.locator("#handles .locked")).to_have_count(0)


def test_a_verse_that_is_begun_is_written_to_its_end(desk: Desk, served: Server) -> None:
    choose(desk, "七绝 平起入韵")
    desk.type("朝辞白帝彩云间，千里江陵一日还。\n两岸猿声")
    await_said(desk, "末行未完")
    expect(desk.page.locator("#write")).to_have_text("续写")
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert desk.text.startswith("朝辞白帝彩云间，千里江陵一日还。\n两岸猿声")
    faults = checked(served, "七绝 平起入韵", desk.text)
    own = [
        f for f in faults if not (f["kind"] == "tone" and f["line"] == 2 and f["column"] <= 4)
    ]  # not of what was typed
    assert own == []
    assert len(desk.text.strip().split("\n")) == 2


def test_a_verse_that_is_shortened_is_written_on_while_its_check_is_on_the_way(desk: Desk) -> None:
    choose(desk, "五绝 仄起")
    desk.type(GOOD)
    await_said(desk, "合律")
    held: list[Route] = []
    desk.route("**/forms/check", lambda route: held.append(route), times=1)
    for _ in range(3):
        desk.press("Backspace")
    until(lambda: desk.page.wait_for_timeout(50) or held)
    desk.press("Control+Enter")
    desk.page.wait_for_timeout(500)
    assert desk.works() == []
    held[0].continue_()
    desk.await_length(len(GOOD))
    desk.await_state("finished")
    assert desk.text.startswith(GOOD[:-3])


def test_a_verse_that_was_left_is_not_written(desk: Desk) -> None:
    choose(desk, "五绝 仄起")
    desk.type(GOOD)
    await_said(desk, "合律")
    held: list[Route] = []
    desk.route("**/forms/check", lambda route: held.append(route), times=1)
    desk.press("Backspace")
    desk.press("Control+Enter")
    until(lambda: desk.page.wait_for_timeout(50) or held)
    desk.press("Alt+n")
    held[0].continue_()
    desk.page.wait_for_timeout(700)
    desk.await_state("idle")
    assert desk.text == ""
    assert desk.works() == []


def test_a_verse_is_retried_while_it_is_written(desk: Desk) -> None:
    choose(desk, "念奴娇 1")
    desk.press("Control+Enter")
    desk.await_length(3)
    first = desk.work()["id"]
    desk.press("Alt+r")
    until(lambda: desk.page.wait_for_timeout(50) or [work["id"] for work in desk.works()] not in ([], [first]))
    desk.await_state("finished")
    assert [work["id"] for work in desk.works()] != [first]
    await_said(desk, "合律")


def test_notices_go_where_a_verse_is_retried(desk: Desk) -> None:
    choose(desk, "五绝 仄起")
    desk.type(GOOD.replace("流", "河"))
    await_said(desk, "处不合")
    open_menu(desk, 1, "lock")
    desk.press("Control+Enter")
    expect(desk.page.locator("#notice")).to_contain_text("保留的行第 1 行")
    open_menu(desk, 1, "lock")
    desk.press("Alt+r")
    desk.page.wait_for_function("t => !document.getElementById('text').textContent.startsWith(t)", arg="白日依山尽")
    expect(desk.page.locator("#notice")).to_be_empty()
    desk.await_state("finished")


def test_a_form_chosen_while_a_request_waits_leaves_the_prose(desk: Desk) -> None:
    desk.type("话说山上")
    desk.length(10)
    desk.page.click("#forms")
    desk.page.locator("#form-search").fill("五绝")
    expect(desk.page.locator("#form-pattern li").first).to_be_visible()
    held: list[Route] = []
    desk.route("**/works", lambda route: held.append(route), times=1)
    desk.page.evaluate("document.getElementById('write').click()")  # the picker is still open
    until(lambda: desk.page.wait_for_timeout(50) or held)
    desk.page.click("#form-use")
    expect(desk.page.locator("#forms")).to_be_disabled()
    expect(desk.page.locator("#verse-form")).to_be_disabled()
    held[0].continue_()
    desk.await_length(5)
    desk.await_state("finished")
    assert desk.text.startswith("话说山上")
    expect(desk.page.locator("#forms")).to_be_enabled()


def test_candidates_of_prose_are_dismissed_where_a_form_is_chosen(desk: Desk) -> None:
    desk.type("话说山上")
    desk.page.click("#three")
    expect(desk.page.locator(".card")).to_have_count(3)
    choose(desk, "五绝 仄起")
    expect(desk.page.locator("#candidates")).to_be_hidden()
    assert desk.text == "话说山上"


def test_a_line_that_leaves_the_form_is_not_kept(desk: Desk) -> None:
    choose(desk, "五绝 仄起")
    wrong = "白日依山尽，黄河入海河。"
    desk.type(wrong)
    await_said(desk, "用了两次")
    desk.press("Control+Enter")
    expect(desk.page.locator("#notice")).to_contain_text("保留的行第 1 行第 11 字：河 用了两次")
    assert desk.text == wrong
    desk.await_state("idle")


def test_what_stayed_is_still_the_writers(desk: Desk) -> None:
    choose(desk, "七绝 平起入韵")
    kept = "朝辞白帝彩云间，千里江陵一日还。\n两岸猿声"
    desk.type(kept)
    await_said(desk, "末行未完")
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert desk.text.startswith(kept)
    assert "".join(desk.text[a:b] for a, b in desk.painted("model")).strip() == desk.text[len(kept) :].strip()
    desk.press("Control+z")
    desk.press("Control+z")
    assert desk.text == kept
    desk.press("Control+Shift+z")
    desk.press("Control+Shift+z")
    assert desk.words.strip() == desk.text[len(kept) :].strip()
