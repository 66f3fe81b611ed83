"""Lost lines, reloads, restarts, refusals, keys: nothing is lost, nothing comes twice, and the reader is told."""

import json
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.page.conftest import Desk, Server, shown, until

pytestmark = pytest.mark.browser

OPENING = "话说天下大势，"


def begin(desk: Desk, tokens: int | None = None) -> None:
    desk.type(OPENING)
    desk.length(tokens)
    desk.press("Control+Enter")
    desk.await_length(len(OPENING) + 40)


def stop_and_compare(desk: Desk) -> None:
    """What the page shows is what the service kept, letter for letter."""
    desk.page.click("#stop")
    desk.await_state("paused")
    assert desk.text == OPENING + shown(desk.work()["choices"][0]["text"])
    assert len(desk.works()) == 1


def test_a_reload_in_the_middle_loses_nothing(desk: Desk) -> None:
    begin(desk)
    before = desk.text
    desk.reload()
    desk.await_state("running")
    desk.await_length(len(before) + 40)
    assert desk.text.startswith(before)
    stop_and_compare(desk)
    desk.reload()
    desk.await_state("paused")
    kept = desk.text
    desk.page.click("#undo")  # the run is known as one
    assert desk.text == OPENING
    desk.page.click("#redo")
    assert desk.text == kept


def test_a_browser_that_died_finds_the_text_again(desk: Desk) -> None:
    desk.type("只写了一半的")
    desk.page.wait_for_function("() => Object.values(localStorage).some(v => v.includes('只写了一半的'))")
    other = desk.page.context.new_page()
    desk.page.close()
    other.goto(desk.url)
    expect(other.locator("#text")).to_have_text("只写了一半的")


def test_the_server_killed_and_started_again_in_the_middle(
    start: Callable[..., Server], open_desk: Callable[..., Desk], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--port", str(port), "--database", str(tmp_path / "works.db"), "--window-limit", "64"]
    first = start(*flags)
    desk = open_desk(first)
    begin(desk)
    desk.await_length(120)
    first.signal(signal.SIGKILL)
    first.wait()
    desk.await_state("lost")
    expect(desk.page.locator("#status")).to_contain_text("连接断了")
    before = desk.text
    start(*flags)
    desk.await_state("running")
    desk.await_length(len(before) + 60)
    assert desk.text.startswith(before)
    stop_and_compare(desk)


def test_stop_while_the_server_is_away_holds_when_it_is_back(
    start: Callable[..., Server], open_desk: Callable[..., Desk], tmp_path: Path
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--port", str(port), "--database", str(tmp_path / "works.db")]
    first = start(*flags)
    desk = open_desk(first)
    begin(desk)
    first.signal(signal.SIGKILL)
    first.wait()
    desk.await_state("lost")
    before = desk.text
    desk.press("Escape")
    expect(desk.page.locator("#write")).to_be_visible()
    start(*flags)
    desk.await_state("paused")
    assert desk.text == before
    assert desk.works()[0]["state"] == "paused"
    desk.press("Control+Enter")  # what was written meanwhile comes first
    desk.await_length(len(before) + 60)
    stop_and_compare(desk)


def test_offline_is_told_and_passes(desk: Desk) -> None:
    begin(desk)
    desk.page.context.set_offline(True)
    expect(desk.page.locator("#notice")).to_contain_text("没有联网")
    desk.page.context.set_offline(False)
    expect(desk.page.locator("#notice")).to_be_empty()
    desk.await_state("running")
    desk.await_length(len(desk.text) + 40)
    stop_and_compare(desk)


def test_a_work_is_made_once_though_the_answer_was_lost(desk: Desk) -> None:
    lost = []

    def lose(route: Route) -> None:
        if route.request.method == "POST" and not lost:
            lost.append(route.fetch().status)  # the service made it, and the page does not hear of it
            route.abort()
        else:
            route.continue_()

    desk.route("**/works", lose)
    begin(desk)
    assert lost == [201]
    stop_and_compare(desk)


def test_too_many_at_once_is_told_and_tried_again(start: Callable[..., Server], open_desk: Callable[..., Desk]) -> None:
    server = start("--batch", "1", "--queue", "2")
    desk = open_desk(server)
    desk.type(OPENING)
    with server.client() as client:
        body = {"prompt": "从前", "max_new_tokens": 16000, "stream": True}
        with client.stream("POST", "/generate", json=body) as holding:
            lines = holding.iter_lines()
            next(lines)
            desk.page.click("#three")
            notice = desk.page.locator("#notice")
            expect(notice).to_contain_text("排队的人太多了")
            expect(notice).to_contain_text("秒后自动再试")
    expect(desk.page.locator(".card")).to_have_count(3)
    expect(desk.page.locator(".card.writing")).to_have_count(0)
    expect(notice).to_be_empty()


def test_a_server_that_shuts_down_says_so(start: Callable[..., Server], open_desk: Callable[..., Desk]) -> None:
    server = start("--drain-timeout", "60")
    desk = open_desk(server)
    desk.type(OPENING)
    with server.client() as client:
        body = {"prompt": "从前", "max_new_tokens": 16000, "stream": True}
        with client.stream("POST", "/generate", json=body) as holding:
            lines = holding.iter_lines()
            next(lines)
            server.signal()
            until(lambda: "ending" in server.log)
            desk.press("Control+Enter")
            expect(desk.page.locator("#notice")).to_contain_text("服务正在关闭")
            desk.page.get_by_role("button", name="算了").click()
            expect(desk.page.locator("#notice")).to_be_empty()
    assert desk.text == OPENING


def test_a_key_is_asked_for_and_kept_for_the_tab(
    start: Callable[..., Server], open_desk: Callable[..., Desk], tmp_path: Path
) -> None:
    server = start(environment={"CPM_GEN_API_KEYS": "me:a-key-of-twenty-characters-and-more"})
    desk = open_desk(server)
    desk.type(OPENING)
    desk.length(20)
    desk.press("Control+Enter")
    dialog = desk.page.locator("#key")
    expect(dialog).to_contain_text("需要 API 密钥")
    desk.page.locator("#key-value").fill("not-the-key")
    desk.press("Enter")
    expect(dialog).to_contain_text("不认识这个密钥")
    desk.page.locator("#key-value").fill("a-key-of-twenty-characters-and-more")
    desk.page.click("#key-send")
    desk.await_state("finished")
    written = desk.text
    desk.reload()
    desk.await_state("finished")
    desk.press("Control+Enter")
    desk.await_length(len(written) + 10)
    desk.await_state("finished")
    expect(dialog).to_be_hidden()
    assert desk.page.evaluate("JSON.stringify(localStorage)").count("a-key-of-twenty") == 0


def test_a_field_that_is_refused_says_why(desk: Desk) -> None:
    desk.type(OPENING)
    desk.page.click("#more summary")
    desk.page.locator("[name=top_p]").fill("1.5")
    desk.press("Control+Enter")
    field = desk.page.locator("label", has=desk.page.locator("[name=top_p]"))
    expect(field.locator(".wrong")).to_contain_text("不能大于 1")
    expect(desk.page.locator("[name=top_p]")).to_be_focused()
    expect(desk.page.locator("[name=top_p]")).to_have_attribute("aria-invalid", "true")
    desk.page.locator("[name=top_p]").fill("0.9")
    desk.length(20)
    desk.press("Control+Enter")
    desk.await_state("finished")
    expect(field.locator(".wrong")).to_be_empty()


def refuse(desk: Desk, status: int, code: str, **headers: str) -> None:
    """The next work is refused."""
    body = {"error": {"code": code, "message": "as the test wants it", "field": None}}
    answer = {"status": status, "headers": headers, "content_type": "application/json", "body": json.dumps(body)}
    desk.route("**/works", lambda route: route.fulfill(**answer), times=1)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (409, "too_many_works", "作品太多了"),
        (413, "body_too_large", "正文太大"),
        (500, "internal", "服务拒绝了请求（500）"),
    ],
)
def test_other_refusals_are_told(desk: Desk, status: int, code: str, words: str) -> None:
    desk.type(OPENING)
    refuse(desk, status, code)
    desk.press("Control+Enter")
    expect(desk.page.locator("#notice")).to_contain_text(words)
    assert desk.text == OPENING
    desk.await_state("idle")


def test_waiting_counts_the_seconds_that_the_service_named(desk: Desk) -> None:
    desk.type(OPENING)
    desk.length(20)
    refuse(desk, 429, "rate_limited", **{"Retry-After": "2"})
    desk.press("Control+Enter")
    expect(desk.page.locator("#notice")).to_contain_text("2 秒后自动再试")
    desk.await_state("finished")
    expect(desk.page.locator("#notice")).to_be_empty()


def test_stopped_before_the_answer_came_it_is_not_made(desk: Desk) -> None:
    """The service makes it, and the page hears of it only after the writer stopped."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        if route.request.method == "POST":
            assert route.fetch().status == 201
            held.append(route)
        else:
            route.continue_()

    desk.route("**/works", hold)
    desk.type(OPENING)
    desk.length(None)
    desk.press("Control+Enter")
    desk.await_state("connecting")
    until(lambda: desk.page.wait_for_timeout(50) or held)
    desk.press("Escape")
    desk.await_state("idle")
    until(lambda: desk.page.wait_for_timeout(100) or not desk.works(), patience=20)


@pytest.mark.parametrize("press", ["#stop", "#three"])
def test_given_up_while_the_line_is_lost_before_the_work_was_made(desk: Desk, press: str) -> None:
    desk.route("**/works**", lambda route: route.abort())
    desk.type(OPENING)
    desk.length(20)
    desk.press("Control+Enter")
    desk.await_state("lost")
    desk.page.click(press)  # before the line is there again
    desk.await_state("idle")
    desk.page.unroute("**/works**")
    if press == "#three":
        expect(desk.page.locator(".card")).to_have_count(3)
        desk.press("Escape")
    assert desk.text == OPENING


def test_a_proxy_without_the_service_behind_it_is_a_lost_line(desk: Desk) -> None:
    desk.route("**/events", lambda route: route.fulfill(status=502, body="Bad Gateway"), times=2)
    begin(desk)
    stop_and_compare(desk)


def test_a_full_store_of_the_browser_does_not_stop_the_page(desk: Desk) -> None:
    desk.page.evaluate(
        "() => { Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') } }"
    )
    desk.page.click("#menu-button")
    desk.page.click("#language")
    expect(desk.page.locator("#write")).to_have_text("Write")
    desk.page.click("#menu-button")
    desk.page.click("#theme")
    assert desk.page.evaluate("document.documentElement.dataset.theme") == "light"
    desk.type(OPENING)
    desk.length(20)
    desk.press("Control+Enter")
    desk.await_state("finished")


def test_a_browser_that_forbids_its_stores_writes_all_the_same(
    browser: Browser, served: Server, open_desk: Callable[..., Desk]
) -> None:
    context = browser.new_context(locale="en-GB")
    context.add_init_script(
        """for (const name of ["localStorage", "sessionStorage"])
          Object.defineProperty(window, name, { get() { throw new DOMException("denied", "SecurityError"); } });"""
    )
    desk = open_desk(served, context)
    desk.type("春江潮水")
    expect(desk.page.locator("#notice")).to_contain_text(re.compile("browser", re.IGNORECASE))
    desk.length(8)
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert desk.words
    context.close()


# From when `late` is a list, of a followed work's events only its states pass.
LATE = """() => { const plain = window.fetch; window.fetch = async (...asked) => {
  const response = await plain(...asked);
  if (!String(asked[0]).endsWith("/events")) return response;
  let rest = "";
  const hold = (text, to) => {
    const blocks = (rest + text).split("\\n\\n");
    rest = blocks.pop();
    for (const block of blocks) window.late && !block.includes("event: state") ? window.late.push(block) : to.enqueue(block + "\\n\\n");
  };
  const body = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(new TransformStream({ transform: hold }));
  return new Response(body.pipeThrough(new TextEncoderStream()), response) } }"""


@pytest.mark.parametrize("stopped", ["here", "elsewhere"])
def test_last_words_that_the_line_does_not_bring_come_all_the_same(desk: Desk, served: Server, stopped: str) -> None:
    desk.page.evaluate(LATE)
    begin(desk)
    desk.page.evaluate("window.late = []")
    desk.page.wait_for_function("() => window.late.length > 80")  # the window has moved as well
    if stopped == "here":
        desk.press("Escape")
    else:
        with served.client() as client:
            client.post(f"/works/{desk.works()[0]['id']}/pause")
    desk.await_state("paused")
    work = desk.work()
    assert desk.text == OPENING + shown(work["choices"][0]["text"])
    expect(desk.page.locator("#facts")).to_contain_text(f"已写 {desk.works()[0]['tokens']} 词元")
    expect(desk.page.locator("#facts")).to_contain_text(f"视窗移动 {work['choices'][0]['window_slides']} 次")
    choice = work["choices"][0]
    edge = len(OPENING) + len(shown(choice["text"][: choice["window"]["text_start"]]))
    desk.page.wait_for_function("n => [...CSS.highlights.get('unseen')].some(r => r.endOffset === n)", arg=edge)
    desk.page.evaluate("window.late = null")
    desk.press("Control+Enter")
    desk.await_length(len(desk.text) + 20)
    stop_and_compare(desk)


def test_two_tabs_with_one_document_show_the_same(desk: Desk, served: Server, open_desk: Callable[..., Desk]) -> None:
    def same() -> bool:
        return until(lambda: other.text == desk.text)

    desk.type("春江潮水")
    desk.page.wait_for_function("() => Object.keys(localStorage).some(k => k.startsWith('cpm-gen:document:'))")
    other = open_desk(served, desk.page.context)
    same()
    desk.length(None)
    desk.press("Control+Enter")
    other.await_state("running")
    other.await_length(40)
    other.press("Escape")  # either of them stops it
    desk.await_state("paused")
    other.await_state("paused")
    same()
    desk.press("Control+z")
    expect(other.page.locator("#text")).to_have_text("春江潮水")
    other.type("连海平")
    expect(desk.page.locator("#text")).to_have_text("春江潮水连海平")
    other.page.close()
    desk.reload()
    expect(desk.page.locator("#text")).to_have_text("春江潮水连海平")
