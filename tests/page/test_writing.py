"""Writing together: run, stop, go on, undo, retry, candidates, edits."""

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Desk, shown, until

pytestmark = pytest.mark.browser


def test_the_text_grows_in_place_and_the_hands_are_told_apart(desk: Desk) -> None:
    desk.type("话说长安城外有一座旧园，")
    desk.length(60)
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert desk.text.startswith("话说长安城外有一座旧园，")
    (run,) = desk.painted("model")
    assert run == [12, len(desk.text)]
    work = desk.work()
    assert desk.words == shown(work["choices"][0]["text"])
    assert work["prompt"] == "话说长安城外有一座旧园，"
    assert work["parameters"]["style"] == "novel"
    expect(desk.page.locator("#status")).to_have_text("写完一段，可以接着写")
    expect(desk.page.locator("#facts")).to_contain_text("已写 60 词元")
    expect(desk.page.locator("#title")).to_contain_text("话说长安城外有一座旧园，")


def test_stop_and_go_on_without_end_are_one_work(desk: Desk) -> None:
    desk.type("春江潮水连海平，")
    desk.length(None)
    desk.press("Control+Enter")
    desk.await_state("running")
    desk.await_length(60)
    expect(desk.page.locator("#facts")).to_contain_text("词元/秒")
    desk.press("Escape")
    desk.await_state("paused")
    stopped = desk.text
    work = desk.work()
    assert work["state"] == "paused"
    assert stopped == "春江潮水连海平，" + shown(work["choices"][0]["text"])
    desk.page.click("#write")
    desk.await_length(len(stopped) + 60)
    desk.page.click("#stop")
    desk.await_state("paused")
    (only,) = desk.works()
    assert only["id"] == work["id"]
    assert desk.text.startswith(stopped)
    assert desk.text == "春江潮水连海平，" + shown(desk.work()["choices"][0]["text"])


def test_a_finished_run_goes_on_in_the_same_work(desk: Desk) -> None:
    desk.type("从前有座山，")
    desk.length(30)
    desk.press("Control+Enter")
    desk.await_state("finished")
    first = desk.text
    desk.length(45)
    desk.press("Control+Enter")
    desk.page.wait_for_function("n => document.getElementById('text').textContent.length > n", arg=len(first))
    desk.await_state("finished")
    (only,) = desk.works()
    assert only["tokens"] == 75
    assert desk.text == "从前有座山，" + shown(desk.work()["choices"][0]["text"])
    desk.press("Control+z")  # one run at a time
    assert desk.text == first


def test_the_text_is_locked_while_the_model_writes(desk: Desk) -> None:
    desk.type("话说")
    desk.length(None)
    desk.press("Control+Enter")
    desk.await_state("running")
    desk.page.locator("#text").focus()
    desk.page.keyboard.type("x")
    expect(desk.page.locator("#notice")).to_contain_text("模型正在写")
    desk.press("Escape")
    desk.await_state("paused")
    assert desk.text == "话说" + shown(desk.work()["choices"][0]["text"])
    desk.type("完")
    assert desk.text.endswith("完")


def test_undo_and_redo_take_runs_whole_and_edits_apart(desk: Desk) -> None:
    desk.type("话说")
    desk.length(40)
    desk.press("Control+Enter")
    desk.await_state("finished")
    written = desk.text
    desk.type("【完】")
    desk.press("Control+z")
    assert desk.text == written
    desk.press("Control+z")
    assert desk.text == "话说"
    assert desk.painted("model") == []
    desk.press("Control+z")
    assert desk.text == ""
    assert desk.page.locator("#undo").is_disabled()
    for _ in range(3):
        desk.press("Control+Shift+z")
    assert desk.text == written + "【完】"
    assert desk.painted("model") == [[2, len(written)]]
    desk.page.click("#undo")
    # as it was written: the work goes on where it ended
    desk.await_state("finished")
    desk.press("Control+Enter")
    desk.await_length(len(written) + 10)
    desk.await_state("finished")
    assert len(desk.works()) == 1


def test_undo_in_the_middle_of_a_run_stops_it(desk: Desk) -> None:
    desk.type("话说")
    desk.length(None)
    desk.press("Control+Enter")
    desk.await_length(40)
    desk.press("Control+z")
    assert desk.text == "话说"
    until(lambda: desk.works()[0]["state"] == "paused")
    assert desk.text == "话说"


def test_retry_writes_another_run_and_undo_brings_the_first_back(desk: Desk) -> None:
    desk.type("明月几时有，")
    desk.length(40)
    desk.press("Control+Enter")
    desk.await_state("finished")
    first, work = desk.text, desk.work()
    desk.press("Alt+r")
    until(lambda: (w := desk.works()) and len(w) == 1 and w[0]["id"] != work["id"])
    desk.await_state("finished")
    second = desk.text
    assert second != first
    assert second.startswith("明月几时有，")
    assert desk.work()["parameters"]["seed"] != work["parameters"]["seed"]
    desk.press("Control+z")
    assert desk.text == "明月几时有，"
    desk.press("Control+z")
    assert desk.text == first


@pytest.mark.parametrize("by", ["key", "touch"])
def test_three_candidates_stream_side_by_side_and_one_is_taken(desk: Desk, by: str) -> None:
    desk.type("床前明月光，")
    if by == "key":
        desk.press("Control+Shift+Enter")
    else:
        desk.page.click("#three")
    cards = desk.page.locator(".card")
    expect(cards).to_have_count(3)
    expect(desk.page.locator(".card.writing")).to_have_count(0)
    boxes = [card.bounding_box() for card in cards.all()]
    assert all(box and boxes[0] and box["y"] == boxes[0]["y"] for box in boxes)
    assert boxes[0] and boxes[1] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    texts = [card.locator("> :last-child").text_content() or "" for card in cards.all()]
    assert len(set(texts)) == 3
    assert all(len(text) > 40 for text in texts)
    if by == "key":
        desk.press("2")
    else:
        cards.nth(1).click()
    expect(desk.page.locator("#candidates")).to_be_hidden()
    assert desk.text == "床前明月光，" + texts[1]
    assert desk.words == texts[1]
    desk.press("Control+z")
    assert desk.text == "床前明月光，"


def test_candidates_are_dismissed_and_their_generation_ends(desk: Desk) -> None:
    desk.type("床前明月光，")
    desk.page.click("#three")
    expect(desk.page.locator(".card")).to_have_count(3)
    desk.press("Escape")
    expect(desk.page.locator("#candidates")).to_be_hidden()
    assert desk.text == "床前明月光，"
    desk.page.locator("#text").focus()
    desk.press("Control+End")
    desk.press("2")  # a digit again
    assert desk.text == "床前明月光，2"


def test_digits_typed_into_a_setting_take_no_candidate(desk: Desk) -> None:
    desk.type("床前明月光，")
    desk.page.click("#three")
    expect(desk.page.locator(".card")).to_have_count(3)
    expect(desk.page.locator(".card.writing")).to_have_count(0)
    desk.page.click("#more summary")
    desk.page.locator("[name=seed]").focus()
    desk.page.keyboard.type("123")
    expect(desk.page.locator("[name=seed]")).to_have_value("123")
    expect(desk.page.locator("#candidates")).to_be_visible()
    assert desk.text == "床前明月光，"


def test_candidates_do_not_outlive_the_text_they_go_on_from(desk: Desk) -> None:
    desk.type("床前明月光，")
    desk.page.click("#three")
    expect(desk.page.locator("#candidates")).to_be_visible()
    desk.type("疑")
    expect(desk.page.locator("#candidates")).to_be_hidden()
    assert desk.text == "床前明月光，疑"


def test_an_edit_after_stop_makes_a_new_work_of_the_whole_text(desk: Desk) -> None:
    desk.type("话说")
    desk.length(None)
    desk.press("Control+Enter")
    desk.await_length(50)
    desk.press("Escape")
    desk.await_state("paused")
    first = desk.works()[0]["id"]
    desk.type("。次日，")
    edited = desk.text
    desk.await_state("idle")
    desk.length(30)
    desk.press("Control+Enter")
    desk.await_state("finished")
    until(lambda: len(desk.works()) == 1)
    work = desk.work()
    assert work["id"] != first
    assert shown(work["prompt"]) == edited
    assert desk.text == edited + shown(work["choices"][0]["text"])
    assert len(desk.painted("model")) == 2


def test_lyrics_are_lines_on_both_sides(desk: Desk) -> None:
    desk.page.get_by_label("歌词").check()
    desk.page.locator("#text").focus()
    desk.type("明月几时有")
    desk.press("Enter")
    desk.press("Enter")
    desk.type("把酒问青天")
    assert desk.text == "明月几时有\n\n把酒问青天"
    desk.length(40)
    desk.press("Control+Enter")
    desk.await_state("finished")
    work = desk.work()
    assert work["prompt"] == "明月几时有<eod> <eod>把酒问青天"
    assert work["parameters"]["window"]["boundary"] == "eod"
    assert desk.text == "明月几时有\n\n把酒问青天\n" + shown(work["choices"][0]["text"])


def test_an_empty_text_is_not_sent(desk: Desk) -> None:
    desk.press("Control+Enter")
    expect(desk.page.locator("#notice")).to_contain_text("先写几个字")
    assert desk.works() == []
