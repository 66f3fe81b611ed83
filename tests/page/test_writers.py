"""What writers bring and take away: files, titles, sizes, presets, words that are not written."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Desk, Server, until

pytestmark = pytest.mark.browser

TEXT = "夜雨初歇，长安城外一座旧园。\n有人提灯而来。\n"


def bring(desk: Desk, name: str, content: bytes) -> None:
    desk.page.locator("#file").set_input_files([{"name": name, "mimeType": "text/plain", "buffer": content}])


def export(desk: Desk, button: str, path: Path) -> tuple[str, bytes]:
    desk.page.click("#exports-button")
    with desk.page.expect_download() as download:
        desk.page.click(button)
    download.value.save_as(path)
    return download.value.suggested_filename, path.read_bytes()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_a_text_file_is_imported_whatever_wrote_it(desk: Desk, encoding: str) -> None:
    bring(desk, "旧园.txt", TEXT.replace("\n", "\r\n").encode(encoding))
    expect(desk.page.locator("#title")).to_have_text("旧园")
    assert desk.text == TEXT
    assert desk.painted("model") == []
    desk.reload()
    assert desk.text == TEXT
    expect(desk.page.locator("#title")).to_have_text("旧园")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bytes(range(256)) * 20, "没有导入"),
        ("夜雨初歇，長安城外一座舊園，有人提燈而來。".encode("big5"), "另存为 UTF-8"),
        ("夜のしずけさ、ゆきがふる。".encode("shift-jis"), "另存为 UTF-8"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "另存为 UTF-8"),
        (b" \r\n", "没有字"),
        (b"a" * 4_000_001, "超过 4 MB"),
    ],
)
def test_a_file_that_is_no_text_is_refused_with_words(desk: Desk, content: bytes, words: str) -> None:
    desk.type("原来的")
    bring(desk, "怪.txt", content)
    expect(desk.page.locator("#notice")).to_contain_text(words)
    assert desk.text == "原来的"


def test_a_title_is_kept_with_the_text_and_its_work(desk: Desk, served: Server, open_desk: Callable[..., Desk]) -> None:
    desk.type("话说长安城外，")
    desk.page.click("#rename")
    desk.page.locator("#line-value").fill("旧园记")
    desk.press("Enter")
    expect(desk.page.locator("#title")).to_have_text("旧园记")
    desk.length(20)
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert desk.works()[0]["metadata"]["title"] == "旧园记"
    desk.press("Alt+n")
    expect(desk.page.locator("#title")).to_have_text("未题")
    other = open_desk(served)
    other.page.click("#works")
    expect(other.page.locator("#list strong")).to_have_text("旧园记")
    other.page.locator("#list .work").click()
    expect(other.page.locator("#title")).to_have_text("旧园记")
    other.page.click("#rename")  # a title that the work does not have yet
    other.page.locator("#line-value").fill("")
    other.press("Enter")
    expect(other.page.locator("#title")).to_have_text(re.compile("^话说长安城外"))
    other.reload()
    expect(other.page.locator("#title")).to_have_text(re.compile("^话说长安城外"))


def test_a_text_is_exported_as_text_markdown_and_a_book(desk: Desk, tmp_path: Path) -> None:
    desk.page.locator("#text").focus()
    desk.page.evaluate(
        """t => { const data = new DataTransfer(); data.setData('text/plain', t);
        document.getElementById('text').dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, cancelable: true})) }""",
        '甲<乙>&"丙"\n# 丁 *戊*<eod>己\u0001\n',
    )
    desk.page.click("#rename")
    desk.page.locator("#line-value").fill("甲 & 乙")
    desk.press("Enter")
    name, text = export(desk, "#export", tmp_path / "a.txt")
    assert (name, text.decode()) == ("甲 & 乙.txt", '甲<乙>&"丙"\n# 丁 *戊*\n己\u0001\n')
    name, text = export(desk, "#export_md", tmp_path / "a.md")
    assert name == "甲 & 乙.md"
    assert text.decode() == '# 甲 \\& 乙\n\n甲\\<乙\\>\\&"丙"\n\n\\# 丁 \\*戊\\*\n\n己\u0001\n'
    name, book = export(desk, "#export_epub", tmp_path / "a.epub")
    assert name == "甲 & 乙.epub"
    assert book[30:58] == b"mimetypeapplication/epub+zip"
    with zipfile.ZipFile(io.BytesIO(book)) as files:
        assert files.testzip() is None
        assert files.namelist()[0] == "mimetype"
        pages = {
            n: ElementTree.fromstring(files.read(n)) for n in files.namelist() if n.endswith(("html", "xml", "opf"))
        }
    html, opf = "{http://www.w3.org/1999/xhtml}", "{http://www.idpf.org/2007/opf}"
    (root,) = pages["META-INF/container.xml"].iter("{urn:oasis:names:tc:opendocument:xmlns:container}rootfile")
    package = pages[root.attrib["full-path"]]
    items = {item.attrib["id"]: item.attrib["href"] for item in package.iter(f"{opf}item")}
    assert {f"book/{href}" for href in items.values()} <= set(files.namelist())
    assert [items[ref.attrib["idref"]] for ref in package.iter(f"{opf}itemref")] == ["text.xhtml"]
    assert [p.text for p in pages["book/text.xhtml"].iter(f"{html}p")] == ['甲<乙>&"丙"', "# 丁 *戊*", "己"]
    assert [h.text for h in pages["book/text.xhtml"].iter(f"{html}h1")] == ["甲 & 乙"]


def test_the_end_of_a_document_is_a_break_and_goes_back_as_it_came(desk: Desk, tmp_path: Path) -> None:
    event = 'event: token\ndata: {"index":%d,"text":"甲。<eod>乙","token_ids":[1],"finish_reason":"length"}\n\n'
    body = "".join(event % n for n in range(3)) + "event: done\ndata: {}\n\n"
    desk.type("话说")
    desk.route("**/generate", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    desk.page.click("#three")
    expect(desk.page.locator(".card.writing")).to_have_count(0)
    assert desk.page.locator(".card > :last-child").first.inner_text() == "甲。\n乙"
    desk.page.locator(".card").first.click()
    assert desk.text == "话说甲。\n乙"
    assert export(desk, "#export", tmp_path / "a.txt")[1].decode() == "话说甲。\n乙"
    desk.length(8)
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert desk.work()["prompt"] == "话说甲。<eod>乙"
    text = desk.text
    desk.reload()
    assert desk.text == text
    assert desk.painted("model") == [[2, len(text)]]
    desk.page.evaluate("localStorage.clear(); sessionStorage.clear()")
    desk.press("Alt+n")
    desk.page.click("#works")
    desk.page.locator("#list .work").first.click()
    expect(desk.page.locator("#drawer")).to_be_hidden()
    assert desk.text == text
    assert desk.painted("model") == [[2, len(text)]]


def test_the_text_can_be_larger(desk: Desk) -> None:
    size = "parseFloat(getComputedStyle(document.getElementById('text')).fontSize)"
    before = desk.page.evaluate(size)
    desk.page.click("#menu-button")
    desk.page.click("#larger")
    desk.page.click("#larger")
    after = desk.page.evaluate(size)
    assert after > before * 1.2
    desk.reload()
    assert desk.page.evaluate(size) == after


def test_own_presets_are_kept_in_the_browser(desk: Desk) -> None:
    desk.page.click("#more summary")
    desk.page.locator("[name=top_k]").fill("7")
    desk.page.click("#own-save")
    desk.page.locator("#line-value").fill("拘谨")
    desk.press("Enter")
    expect(desk.page.locator("#own")).to_have_value("拘谨")
    desk.page.get_by_label("歌词").check()
    desk.reload()
    desk.page.click("#more summary")
    expect(desk.page.locator("[name=top_k]")).not_to_have_value("7")
    desk.page.select_option("#own", "拘谨")
    expect(desk.page.locator("[name=top_k]")).to_have_value("7")
    expect(desk.page.get_by_label("小说")).to_be_checked()
    desk.page.click("#own-remove")
    expect(desk.page.locator("#own option")).to_have_count(1)


def test_words_of_one_token_are_banned_and_others_named(desk: Desk, served: Server) -> None:
    with served.client() as client:
        (moon,) = client.post("/tokenize", json={"text": "明月", "style": "plain"}).json()["token_ids"]
    desk.page.click("#more summary")
    desk.page.locator("#banned").fill("明月\nthe")
    expect(desk.page.locator("#banned-said")).to_contain_text("“the”由几个词元组成")
    desk.type("床前")
    desk.length(20)
    desk.press("Control+Enter")
    desk.await_state("finished")
    assert desk.work()["parameters"]["banned_ids"] == [moon]
    desk.reload()
    desk.page.click("#more summary")
    expect(desk.page.locator("#banned")).to_have_value("明月\nthe")
    desk.page.locator("#banned").fill("")
    until(lambda: desk.page.wait_for_timeout(100) or desk.page.locator("#banned-said").inner_text() == "")


def test_lengths_are_said_in_letters(desk: Desk) -> None:
    desk.type("明月，几时\n有 a")
    expect(desk.page.locator("#facts")).to_have_text("7 字")
    assert desk.page.locator("[name=max_new_tokens] option").all_inner_texts()[0].startswith("约 ")
    assert desk.page.locator("[name=max_new_tokens] option").first.get_attribute("title") == "60 词元"


@pytest.mark.parametrize("size", [(683, 330), (640, 360)])
def test_at_200_percent_on_a_laptop_everything_is_in_reach(
    served: Server, open_desk: Callable[..., Desk], size: tuple[int, int]
) -> None:
    desk = open_desk(served, viewport={"width": size[0], "height": size[1]})
    desk.type("话说")
    for part in ("#settings", "#status", "#write", "[name=max_new_tokens]", "[name=temperature]", "#exports-button"):
        box = desk.page.locator(part).bounding_box()
        assert box, part
        assert 0 <= box["y"] <= box["y"] + box["height"] <= size[1] + 1, part
    desk.page.click("#more summary")
    desk.page.locator("[name=top_k]").fill("7")
    desk.page.locator("#reset").click()
    desk.page.click("#three")
    expect(desk.page.locator(".card")).to_have_count(3)
    desk.page.locator(".card").nth(1).scroll_into_view_if_needed()
    desk.page.locator("#write").scroll_into_view_if_needed()
    expect(desk.page.locator("#write")).to_be_in_viewport()
    assert desk.page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_forced_colours_tell_what_is_chosen(served: Server, open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(served, forced_colors="active")
    looks = desk.page.evaluate(
        "[...document.querySelectorAll('.style input')].map(i => [i.checked, getComputedStyle(i.nextElementSibling).backgroundColor])"
    )
    (chosen,) = [colour for checked, colour in looks if checked]
    assert chosen not in [colour for checked, colour in looks if not checked]
    style = "e => [getComputedStyle(e).forcedColorAdjust, getComputedStyle(e).backgroundImage]"
    adjust, track = desk.page.locator("[name=temperature]").evaluate(style)
    assert adjust == "none"
    assert "gradient" in track
    for button in ("#works", "#write", "#three", "#exports-button"):
        assert desk.page.locator(button).evaluate("e => getComputedStyle(e).borderTopStyle") == "solid"


def test_icons_have_words_and_export_is_in_sight(desk: Desk) -> None:
    wordless = "[...document.querySelectorAll('button:has(svg)')].filter(b => !b.innerText.trim() && b.getClientRects().length)"
    assert desk.page.evaluate(f"{wordless}.map(b => b.id)") == []
    expect(desk.page.locator("#exports-button")).to_be_visible()
    desk.page.locator("#exports-button").focus()
    desk.press("Enter")
    expect(desk.page.locator("#export_epub")).to_be_visible()
    desk.press("Tab")
    assert (
        desk.page.evaluate("document.activeElement.closest('#exports') !== null")
        or desk.page.locator("#export").is_disabled()
    )
