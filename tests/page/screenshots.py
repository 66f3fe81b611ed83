"""Make docs/images: ``python -m tests.page.screenshots``. Look at them afterwards."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from tests.page.conftest import Desk, launch
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
            take(browser, server, "page-phone", light, **PHONE)
            take(browser, server, "page-phone-candidates", candidates, color_scheme="dark", **PHONE)
        finally:
            browser.close()


if __name__ == "__main__":
    main()
