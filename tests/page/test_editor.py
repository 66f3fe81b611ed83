"""The editor: input methods, paste, foreign markup, long texts, and the window's edge in the text."""

import time

import pytest
from playwright.sync_api import CDPSession, expect

from tests.page.conftest import Desk, Server, shown, until

pytestmark = pytest.mark.browser


def compose(session: CDPSession, *stages: str) -> None:
    """An input method shows what it has so far."""
    for stage in stages:
        session.send(
            "Input.imeSetComposition", {"text": stage, "selectionStart": len(stage), "selectionEnd": len(stage)}
        )


def test_an_input_method_composes_and_its_words_are_one_edit(desk: Desk) -> None:
    desk.type("床前")
    desk.page.wait_for_timeout(1300)  # a pause between edits
    session = desk.page.context.new_cdp_session(desk.page)
    compose(session, "m", "mi", "ming", "ming y", "ming yue")
    assert desk.text == "床前ming yue"
    session.send("Input.insertText", {"text": "明月"})
    expect(desk.page.locator("#title")).to_have_text("床前明月")
    assert desk.text == "床前明月"
    compose(session, "g", "gu", "guang")
    session.send("Input.insertText", {"text": "光"})
    expect(desk.page.locator("#title")).to_have_text("床前明月光")
    desk.page.wait_for_timeout(50)
    desk.press("Control+z")
    assert "g" not in desk.text
    assert desk.text in ("床前明月", "床前")  # words typed one after another may be undone together
    while desk.text:
        desk.press("Control+z")
    desk.press("Control+Shift+z")
    assert desk.text == "床前"


def test_a_run_begins_with_what_is_being_composed(desk: Desk) -> None:
    desk.type("床前")
    session = desk.page.context.new_cdp_session(desk.page)
    compose(session, "明", "明月")
    desk.length(20)
    desk.page.click("#write")
    desk.await_state("finished")
    assert desk.work()["prompt"] == "床前明月"
    assert desk.text == "床前明月" + desk.words


def test_keys_of_an_input_method_are_no_shortcuts(desk: Desk) -> None:
    desk.type("话说")
    script = "init => document.getElementById('text').dispatchEvent(new KeyboardEvent('keydown', init))"
    init = {"key": "Enter", "ctrlKey": True, "isComposing": True, "bubbles": True}
    desk.page.evaluate(script, init)
    desk.page.wait_for_timeout(200)
    assert desk.works() == []


def test_typing_amid_the_models_words_is_the_writers(desk: Desk) -> None:
    desk.type("话说")
    desk.length(40)
    desk.press("Control+Enter")
    desk.await_state("finished")
    size = len(desk.text)
    desk.page.locator("#text").focus()
    desk.press("Control+Home")
    for _ in range(6):
        desk.press("ArrowRight")
    desk.page.keyboard.insert_text("【我】")
    assert desk.text[6:9] == "【我】"
    assert desk.painted("model") == [[2, 6], [9, size + 3]]
    for _ in range(3):
        desk.press("Backspace")
    assert desk.painted("model") == [[2, size]]


def test_keys_that_make_lines_and_words_vanish(desk: Desk) -> None:
    desk.page.locator("#text").focus()
    desk.page.keyboard.type("a b")
    desk.press("Enter")
    desk.press("Shift+Enter")
    desk.page.keyboard.type("cd ef")
    assert desk.text == "a b\n\ncd ef"
    desk.press("Control+Backspace")
    assert desk.text == "a b\n\ncd "
    for _ in range(5):
        desk.press("Backspace")
    assert desk.text == "a b"
    desk.press("Home")
    desk.press("Delete")
    assert desk.text == " b"
    desk.press("Control+a")
    desk.press("Backspace")
    assert desk.text == ""
    desk.page.keyboard.type("新")
    assert desk.text == "新"


def test_paste_is_plain_text(desk: Desk) -> None:
    desk.page.locator("#text").focus()
    desk.page.evaluate(
        """() => { const data = new DataTransfer(); data.setData('text/html', '<b onclick=x>甲</b><img src=x>');
        data.setData('text/plain', '甲\\r\\n乙');
        document.getElementById('text').dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, cancelable: true})) }"""
    )
    assert desk.text == "甲\n乙"
    assert desk.page.locator("#text *").count() == 1  # the <br> at the end


MARKUP = "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;"


def test_markup_stays_text_whoever_writes_it(desk: Desk, served: Server) -> None:
    desk.type(MARKUP)
    desk.length(20)
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert desk.text.startswith(MARKUP)
    # a model that writes markup, in candidates as in the text; and a list whose titles are markup
    event = (
        'event: token\ndata: {"index":%d,"text":"'
        + MARKUP.replace('"', "")
        + '","token_ids":[1],"finish_reason":"length"}\n\n'
    )
    body = "".join(event % n for n in range(3)) + "event: done\ndata: {}\n\n"
    desk.route("**/generate", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    desk.page.click("#three")
    expect(desk.page.locator(".card")).to_have_count(3)
    expect(desk.page.locator(".card.writing")).to_have_count(0)
    desk.page.locator(".card").first.click()
    assert desk.text.endswith(MARKUP)
    with served.client() as client:
        client.post("/works", json={"prompt": MARKUP, "max_new_tokens": 1, "metadata": {"title": MARKUP}})
    desk.page.click("#works")
    expect(desk.page.locator("#list strong").filter(has_text="<script>").first).to_be_visible()
    assert desk.page.locator("#text *, #list img, #list script, #candidates img").count() == 1


def test_the_windows_edge_stands_where_the_service_says(desk: Desk) -> None:
    desk.type("话说天下大势，")
    desk.length(200)  # a window of 64 moves at least three times, whatever is written
    desk.press("Control+Enter")
    desk.await_state("finished")
    work = desk.work()["choices"][0]
    assert work["window_slides"] > 1
    edge = 7 + len(shown(work["text"][: work["window"]["text_start"]]))
    desk.page.wait_for_function("n => [...CSS.highlights.get('unseen')].some(r => r.endOffset === n)", arg=edge)
    assert desk.painted("unseen") == [[0, edge]]
    expect(desk.page.locator("#facts")).to_contain_text(f"视窗移动 {work['window_slides']} 次")
    label = desk.page.get_by_text("模型只看得到此线以下")
    expect(label).to_be_visible()
    top = desk.page.evaluate(
        """n => { const text = document.getElementById('text').firstChild, range = document.createRange();
        range.setStart(text, n); range.setEnd(text, n + 1); return range.getBoundingClientRect().top }""",
        edge,
    )
    box = label.bounding_box()
    assert box
    assert -30 < box["y"] + box["height"] / 2 - top < 45  # on the line above or below the edge
    desk.reload()  # and it stands there again
    desk.page.wait_for_function("n => [...CSS.highlights.get('unseen')].some(r => r.endOffset === n)", arg=edge)
    desk.press("Control+z")
    assert desk.painted("unseen") == []
    expect(label).to_be_hidden()


def test_the_edge_inside_the_prompt_is_found_by_its_tokens(desk: Desk, served: Server) -> None:
    prompt = "话说天下大势，分久必合，合久必分。" * 6
    desk.type(prompt)
    desk.length(5)
    desk.press("Control+Enter")
    desk.await_state("finished")
    work = desk.work()
    start = work["choices"][0]["window"]["start"]
    assert 0 < start < work["usage"]["prompt_tokens"]
    with served.client() as client:
        pieces = client.post("/tokenize", json={"text": prompt, "style": "novel"}).json()["pieces"]
    desk.page.wait_for_function("() => CSS.highlights.get('unseen').size === 1")
    ((_, edge),) = desk.painted("unseen")
    assert edge == len("".join(pieces[:start]).strip())
    assert prompt[edge - 1] == "。"  # a novel's window begins at a sentence


def test_the_edge_inside_the_first_of_several_prompts(desk: Desk, served: Server) -> None:
    prompt = "话说天下大势，分久必合，合久必分。" * 6
    with served.client() as client:
        body = {"prompt": [prompt, "从前" * 20], "style": "novel", "max_new_tokens": 5, "truncate_prompt": True}
        id = client.post("/works", json=body).json()["id"]
        work = until(lambda: (w := client.get(f"/works/{id}").json())["state"] == "finished" and w)
        pieces = client.post("/tokenize", json={"text": prompt, "style": "novel"}).json()["pieces"]
    start = work["choices"][0]["window"]["start"]
    assert 0 < start < len(pieces)
    desk.page.click("#works")
    desk.page.locator("#list .work").click()
    desk.page.wait_for_function("() => CSS.highlights.get('unseen').size === 1")
    assert desk.painted("unseen") == [[0, len("".join(pieces[:start]).strip())]]


@pytest.mark.parametrize(
    ("mark", "rest", "whole"), [("🌊", 149_999, False), ("<eod>", 149_997, False), ("🌊", 149_998, True)]
)
def test_a_prompt_that_is_cut_begins_with_a_whole_letter(desk: Desk, mark: str, rest: int, whole: bool) -> None:
    prompts = desk.page.evaluate(
        """async ([mark, rest]) => { const { endOf } = await import("/page/store.js");
        return [endOf("海" + mark + "平".repeat(rest)), endOf(mark + "平")] }""",
        [mark, rest],
    )
    assert prompts == [mark * whole + "平" * rest, mark + "平"]


def test_the_edge_is_looked_for_in_whole_letters(desk: Desk) -> None:
    """The part of a long prompt that is looked at begins, or ends, in the middle of a letter."""
    asked = desk.page.evaluate(
        """async () => { const { unseen } = await import("/page/edge.js"), asked = [];
        const string = "海".repeat(7_999) + "🌊" + "平".repeat(7_999), from = string.length;
        const work = { window: { start: 9, text_start: 0 }, from, keep: 2, prompted: 16_000 };
        await unseen({ text: { string }, work }, async (part) => (asked.push(part), [...part]));
        return asked.map((part) => [part.length, part.isWellFormed()]) }"""
    )
    assert asked == [[7_999, True], [8_001, True]]


def test_a_long_text_stays_usable(desk: Desk) -> None:
    long = "\n".join("春江潮水连海平，海上明月共潮生。" * 5 for _ in range(2500))
    assert len(long) > 200_000
    desk.page.evaluate(
        """t => { const data = new DataTransfer(); data.setData('text/plain', t);
        document.getElementById('text').focus();
        document.getElementById('text').dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, cancelable: true})) }""",
        long,
    )
    began = time.monotonic()
    for _ in range(10):
        desk.page.keyboard.type("字")
    assert time.monotonic() - began < 10
    assert desk.text == long + "字" * 10
    desk.length(40)
    desk.press("Control+Enter")
    expect(desk.page.locator("#notice")).to_contain_text("只收到最后一部分")
    desk.await_state("finished")
    assert desk.text == long + "字" * 10 + shown(desk.work()["choices"][0]["text"])
    desk.reload()
    assert len(desk.text) > len(long) + 40
