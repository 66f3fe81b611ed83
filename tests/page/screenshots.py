"""Make docs/images: ``python -m tests.page.screenshots``. Look at them afterwards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect, sync_playwright

from tests.page.conftest import Desk, launch
from tests.page.test_rewriting import select
from tests.page.test_story import fill
from tests.page.test_verse import choose, open_menu
from tests.service_process import Server, serving

IMAGES = Path(__file__).parents[2] / "docs" / "images"
WIDE: dict[str, Any] = {"viewport": {"width": 1120, "height": 760}, "device_scale_factor": 1.5}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "is_mobile": True,
    "has_touch": True,
}
LYRIC = "明月几时有，把酒问青天。\n不知天上宫阙，今夕是何年。"
NOVEL = "却说那夜雨初歇，长安城外一座旧园里，有人提灯而来。"
PROSE = "第二天一早，天还没有亮。推开门，院子里积了厚厚的一层雪，连井台也看不见了。他站了一会儿，走了。"
SONG = "韵: 十三辙\n[主歌]\n2+3,2+3a\n2+4,2+3a\n[副歌]\n「我」2+2b\n4-6b\n2+2+3b\n[副歌] 重复\n"


def write(desk: Desk, style: str, words: str, tokens: int, seed: int) -> None:
    desk.page.locator(f"input[value={style}]").check()
    desk.page.evaluate("() => document.getElementById('more').open = true")
    desk.page.locator("[name=seed]").fill(str(seed))
    desk.page.evaluate("() => document.getElementById('more').open = false")
    desk.page.select_option("[name=max_new_tokens]", str(tokens))
    desk.type(words)
    desk.press("Control+Enter")
    desk.await_state("finished")


def take(browser: Browser, server: Server, name: str, act: Callable[[Desk], None], **options: Any) -> None:
    context = browser.new_context(**({"locale": "zh-CN"} | options))
    desk = Desk(context.new_page(), server.url).open()
    act(desk)
    desk.page.wait_for_timeout(400)
    desk.page.screenshot(path=IMAGES / f"{name}.png")
    context.close()


def light(desk: Desk) -> None:
    write(desk, "novel", NOVEL, 60, 11)
    desk.type("。\n他四顾无人，轻轻推门，只见案上一卷残诗，墨迹未干，便取过灯来细看。")
    write(desk, "novel", "", 200, 11)


def dark(desk: Desk) -> None:
    write(desk, "lyric", LYRIC, 60, 3)


def candidates(desk: Desk) -> None:
    write(desk, "novel", NOVEL, 60, 11)
    desk.page.click("#three")
    desk.page.wait_for_function(
        "() => document.querySelectorAll('.card').length === 3 && !document.querySelector('.card.writing')"
    )


def verse(desk: Desk) -> None:
    choose(desk, "七绝 平起入韵")
    desk.type("长安城外一灯明，")
    expect(desk.page.locator("#verse-said")).to_contain_text("末行未完")
    desk.page.evaluate("() => document.getElementById('more').open = true")
    desk.page.locator("[name=seed]").fill("5")
    desk.page.evaluate("() => document.getElementById('more').open = false")
    desk.press("Control+Enter")
    desk.await_state("finished")
    open_menu(desk, 2, "lock")
    desk.page.locator("#handles button").first.click()


def song(desk: Desk) -> None:
    choose(desk, SONG)
    desk.type("江山水上思，秋月似愁予\n莫惜前年别恨，山头日暮晴\n我亦")
    expect(desk.page.locator("#verse-said")).to_contain_text("不押")
    desk.page.evaluate("() => document.activeElement.blur()")


def rhymes(desk: Desk) -> None:
    verse(desk)
    desk.page.locator("#line-menu [data-act=rhymes]").click()
    desk.page.locator("#choices-list li").first.wait_for()


def rewriting(desk: Desk) -> None:
    desk.type(PROSE)
    select(desk, PROSE.index("推"), PROSE.index("他站"))
    desk.press("Alt+g")
    desk.page.locator("#choices-list li").first.wait_for()


def story(desk: Desk) -> None:
    fill(desk)
    desk.type(NOVEL)
    desk.length(60)
    desk.press("Control+Enter")
    desk.await_state("finished")
    desk.page.click("#story")


def works(desk: Desk) -> None:
    desk.page.click("#works")
    desk.page.locator("#list li").first.wait_for()


def main() -> None:
    with serving("--window-limit", "270", "--window-hop", "50") as server, sync_playwright() as playwright:
        browser = launch(playwright)
        try:
            take(browser, server, "page-light", light, **WIDE)
            take(browser, server, "page-dark", dark, color_scheme="dark", **WIDE)
            take(browser, server, "page-candidates", candidates, **WIDE)
            take(browser, server, "page-works", works, locale="en-GB", **WIDE)
            take(browser, server, "page-verse", verse, **WIDE)
            take(browser, server, "page-rewrite", rewriting, color_scheme="dark", **WIDE)
            take(browser, server, "page-phone", light, **PHONE)
            take(browser, server, "page-song-phone", song, **PHONE)
            take(browser, server, "page-rhymes-phone", rhymes, color_scheme="dark", **PHONE)
            take(browser, server, "page-story", story, **WIDE)
            take(browser, server, "page-phone-candidates", candidates, color_scheme="dark", **PHONE)
        finally:
            browser.close()


if __name__ == "__main__":
    main()
