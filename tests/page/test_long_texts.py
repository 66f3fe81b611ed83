"""Texts of several blocks: every edit and every undo gives the text that one block would, and a key costs the same."""

import pytest

from tests.page.conftest import Desk
from tests.page.test_editor import compose

pytestmark = pytest.mark.browser

LINE = "却说那日天色将晚，山下有一老僧，提着灯笼，缓缓而来。众人看时，只见他须发皆白，步履却甚轻健。\n"
BLOCKS = "[...document.querySelectorAll('#text, #text > div')].map(e => e.firstChild.data)"

# blocks that do not stand one line below the one before
GAPS = """() => { const range = document.createRange(), line = parseFloat(getComputedStyle(document.getElementById('text')).lineHeight);
  const boxes = [...document.querySelectorAll('#text, #text > div')].map(({firstChild: node}) => {
    range.setStart(node, 0); range.setEnd(node, 1); const top = range.getBoundingClientRect().top;
    range.setStart(node, node.length - 2); range.setEnd(node, node.length - 1); return [top, range.getBoundingClientRect().top] });
  return boxes.slice(1).map(([top], n) => top - boxes[n][1]).filter(gap => Math.abs(gap - line) > 2) }"""


def paste(desk: Desk, text: str) -> None:
    desk.page.evaluate(
        """t => { const data = new DataTransfer(), text = document.getElementById('text'); data.setData('text/plain', t); text.focus();
        text.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, cancelable: true})) }""",
        text,
    )


def select(desk: Desk, start: int, end: int | None = None) -> None:
    """Put the caret, or a selection, where a reader would with the mouse."""
    desk.page.evaluate(
        """([from, to]) => { const nodes = [...document.querySelectorAll('#text, #text > div')].map(e => e.firstChild);
        const place = at => {
            for (const node of nodes) { if (at < node.length || node === nodes.at(-1)) return [node, at]; at -= node.length } };
        document.getElementById('text').focus(); getSelection().setBaseAndExtent(...place(from), ...place(to)) }""",
        [start, start if end is None else end],
    )


@pytest.fixture
def long(desk: Desk) -> tuple[Desk, str, int]:
    """A text of several blocks, and where the second one begins."""
    text = "".join(f"{n:03}{LINE}" for n in range(200))
    paste(desk, text)
    blocks = desk.page.evaluate(BLOCKS)
    assert len(blocks) > 3
    assert "".join(blocks) == text == desk.text
    return desk, text, len(blocks[0])


@pytest.mark.parametrize(
    ("at", "keys", "cut", "put"),
    [
        (0, ["Backspace"], (-1, 0), ""),
        (-1, ["Delete"], (-1, 0), ""),
        (-1, ["字"], (-1, -1), "字"),
        (0, ["字"], (0, 0), "字"),
        (0, ["ArrowLeft", "字"], (-1, -1), "字"),
        (-1, ["ArrowRight", "字"], (0, 0), "字"),
        (-4, ["End", "字"], (-1, -1), "字"),
        (3, ["Home", "字"], (0, 0), "字"),
        (0, ["Enter"], (0, 0), "\n"),
        (-1, ["Enter", "字"], (-1, -1), "\n字"),
        (-2, ["Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "Delete"], (-2, 1), ""),
        (-2, ["Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "x"], (-2, 1), "x"),
        (-2, ["Shift+ArrowRight", "Shift+ArrowRight", "Shift+ArrowRight", "Enter"], (-2, 1), "\n"),
        (0, ["Backspace", "Backspace", "字"], (-2, 0), "字"),
    ],
)
def test_keys_at_the_border_of_two_blocks(
    long: tuple[Desk, str, int], at: int, keys: list[str], cut: tuple[int, int], put: str
) -> None:
    desk, text, border = long
    select(desk, border + at)
    for key in keys:
        if key == "字":
            desk.page.keyboard.insert_text(key)
        else:
            desk.press(key)
    after = text[: border + cut[0]] + put + text[border + cut[1] :]
    assert desk.text == after
    assert desk.page.evaluate(GAPS) == []
    desk.page.keyboard.insert_text("【")  # the caret is behind the edit
    assert desk.text == text[: border + cut[0]] + put + "【" + text[border + cut[1] :]
    while desk.text != text and not desk.page.locator("#undo").is_disabled():
        desk.press("Control+z")
    assert desk.text == text
    while not desk.page.locator("#redo").is_disabled():
        desk.press("Control+Shift+z")
    assert desk.text == text[: border + cut[0]] + put + "【" + text[border + cut[1] :]
    desk.reload()
    assert desk.text == text[: border + cut[0]] + put + "【" + text[border + cut[1] :]


def test_an_input_method_replaces_words_of_two_blocks(long: tuple[Desk, str, int]) -> None:
    desk, text, border = long
    select(desk, border - 3, border + 3)
    session = desk.page.context.new_cdp_session(desk.page)
    compose(session, "m", "ming", "ming y")
    session.send("Input.insertText", {"text": "明月"})
    after = text[: border - 3] + "明月" + text[border + 3 :]
    desk.page.wait_for_function("t => document.getElementById('text').textContent === t", arg=after)
    desk.page.wait_for_timeout(100)
    desk.page.keyboard.insert_text("光")
    assert desk.text == after[: border - 1] + "光" + after[border - 1 :]
    while desk.text != text:
        desk.press("Control+z")


def test_what_is_copied_is_the_text(long: tuple[Desk, str, int]) -> None:
    desk, text, border = long
    select(desk, 10, border + 200)
    copied = desk.page.evaluate(
        """() => { const data = new DataTransfer();
        document.getElementById('text').dispatchEvent(new ClipboardEvent('cut', {clipboardData: data, cancelable: true, bubbles: true}));
        return data.getData('text/plain') }"""
    )
    assert copied == text[10 : border + 200]
    assert desk.text == text[:10] + text[border + 200 :]
    desk.press("Control+z")
    assert desk.text == text
    desk.press("Control+a")
    desk.press("Backspace")
    assert desk.text == ""
    desk.page.keyboard.insert_text("新")
    assert desk.text == "新"
    assert desk.page.locator("#text > div").count() == 0


def test_a_key_costs_little_in_a_long_text(desk: Desk) -> None:
    """CPU time of the page's thread a key, at 200 and at 200,000 characters."""
    session = desk.page.context.new_cdp_session(desk.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def spent() -> float:
        metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
        return 1000 * float(metrics["TaskDuration"])

    def a_key() -> float:
        desk.press("Control+End")
        desk.page.wait_for_timeout(2500)
        before = spent()
        for letter in "他说道你好啊朋":
            desk.page.keyboard.insert_text(letter)
            desk.page.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
        return (spent() - before) / 7

    paste(desk, LINE * 4)
    short = a_key()
    paste(desk, LINE * 4300)
    assert len(desk.text) > 200_000
    costs = [short, a_key()]
    assert costs[1] < costs[0] + 30, costs  # one node of text: 80 to 140 ms more
