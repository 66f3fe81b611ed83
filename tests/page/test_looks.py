"""Phones, colours, languages, keyboard, and the policy that the browser enforces."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Desk, Server

pytestmark = pytest.mark.browser

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def overflow(desk: Desk) -> int:
    return int(desk.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def test_a_phone_shows_all_of_it_without_scrolling_sideways(served: Server, open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(served, **PHONE)
    desk.type("话说长安城外有一座旧园，" + "verylongword" * 20)
    desk.length(60)
    desk.page.tap("#write")
    desk.await_state("finished")
    assert overflow(desk) <= 0
    for button in ("#write", "#three", "#retry", "#undo", "#works", "#new", "#menu-button"):
        box = desk.page.locator(button).bounding_box()
        assert box, button
        assert min(box["width"], box["height"]) >= 36, button
        assert box["x"] >= 0, button
        assert box["x"] + box["width"] <= 390, button
    desk.page.tap("#three")
    expect(desk.page.locator(".card")).to_have_count(3)
    expect(desk.page.locator(".card.writing")).to_have_count(0)
    boxes = [card.bounding_box() for card in desk.page.locator(".card").all()]
    assert boxes[0] and boxes[1]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert overflow(desk) <= 0
    desk.page.locator(".card").nth(2).tap()
    desk.page.locator("#more summary").tap()
    assert overflow(desk) <= 0
    desk.page.locator("#more summary").tap()
    desk.page.tap("#works")
    expect(desk.page.locator("#list li")).to_have_count(1)
    assert overflow(desk) <= 0


CONTRAST = """names => {
  const probe = document.body.appendChild(document.createElement('i'));
  const canvas = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d', {willReadFrequently: true});
  const light = name => {
    probe.style.color = `var(--${name})`;
    canvas.fillStyle = getComputedStyle(probe).color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map(v => v / 255)
      .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ratios = names.map(([a, b]) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05) });
  probe.remove();
  return ratios;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_can_be_read(served: Server, open_desk: Callable[..., Desk], scheme: str) -> None:
    desk = open_desk(served, color_scheme=scheme)
    pairs = [
        (ink, ground) for ink in ("ink", "soft", "model", "unseen", "wrong") for ground in ("paper", "sheet")
    ] + [("on-seal", "seal"), ("paper", "ink")]  # fmt: skip
    ratios = desk.page.evaluate(CONTRAST, pairs)
    assert {pair: r for pair, r in zip(pairs, ratios, strict=True) if r < 4.5} == {}
    ground = desk.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(250, 246, 238)") is (scheme == "light")
    for _ in range(1 if scheme == "dark" else 2):  # auto, light, dark
        desk.page.click("#menu-button")
        desk.page.click("#theme")
    other = desk.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert other != ground
    desk.reload()
    assert desk.page.evaluate("getComputedStyle(document.body).backgroundColor") == other


def test_the_models_words_are_underlined_not_only_coloured(desk: Desk) -> None:
    style = "getComputedStyle(document.getElementById('text'), '::highlight(model)')"
    assert "underline" in desk.page.evaluate(f"{style}.textDecorationLine")
    assert desk.page.evaluate(f"{style}.color") != desk.page.evaluate("getComputedStyle(document.body).color")


def test_the_language_follows_the_browser_and_can_be_switched(served: Server, open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(served, locale="en-GB")
    expect(desk.page.locator("html")).to_have_attribute("lang", "en")
    expect(desk.page.locator("#write")).to_have_text("Write")
    expect(desk.page.locator("#status")).to_have_text("Ready")
    desk.page.click("#menu-button")
    desk.page.click("#language")
    expect(desk.page.locator("html")).to_have_attribute("lang", "zh-Hans")
    expect(desk.page.locator("#write")).to_have_text("写")
    desk.reload()
    expect(desk.page.locator("#write")).to_have_text("写")
    # nothing is left without words, and no name of words shows as such
    left = "[...document.querySelectorAll('[data-say]')].filter(e => !e.textContent.trim() || /^[a-z_]+[._][a-z_.]+$/.test(e.textContent))"
    assert desk.page.evaluate(f"{left}.map(e => e.dataset.say)") == []


def test_shortcuts_are_shown_and_everything_has_a_name(desk: Desk) -> None:
    desk.press("Control+/")
    expect(desk.page.locator("#keys")).to_be_visible()
    expect(desk.page.locator("#keys")).to_contain_text("Ctrl+Enter")
    desk.press("Escape")
    expect(desk.page.locator("#keys")).to_be_hidden()
    desk.page.locator("#undo").evaluate("e => e.blur()")
    desk.press("?")
    expect(desk.page.locator("#keys")).to_be_visible()
    desk.press("Escape")
    desk.page.locator("#text").focus()
    desk.page.keyboard.type("?")
    assert desk.text == "?"
    nameless = """() => [...document.querySelectorAll('button:not(#confirm-yes), input, select, textarea, [role=textbox]')].filter(e =>
        !(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label')?.textContent.trim())).map(e => e.id || e.name)"""
    assert desk.page.evaluate(nameless) == []


def test_focus_can_be_seen_and_goes_through_the_controls(desk: Desk) -> None:
    seen = set()
    for _ in range(16):
        desk.press("Tab")
        seen.add(desk.page.evaluate("document.activeElement.id || document.activeElement.name"))
        outline = (
            "(e => e.matches('body, #text, .style input') || getComputedStyle(e).outlineStyle)(document.activeElement)"
        )
        assert desk.page.evaluate(outline) != "none"
    assert {"works", "new", "text", "style", "max_new_tokens", "temperature", "three", "write"} <= seen


def test_the_reader_may_scroll_while_the_model_writes(desk: Desk) -> None:
    desk.type("话说\n" * 60)
    desk.length(None)
    desk.press("Control+Enter")
    desk.await_length(240)
    desk.page.wait_for_function("() => document.getElementById('scroll').scrollTop > 1000")
    desk.page.evaluate("document.getElementById('scroll').scrollTop = 100")
    desk.await_length(len(desk.text) + 60)
    assert desk.page.evaluate("document.getElementById('scroll').scrollTop") == 100
    desk.press("Escape")
    desk.await_state("paused")


def test_the_browser_enforces_the_policy(desk: Desk) -> None:
    evil = """() => { const script = document.createElement('script');
        try { script.textContent = 'window.evil = 1' } catch { return 'refused' }
        document.body.append(script); return window.evil }"""
    assert desk.page.evaluate(evil) == "refused"
    assert desk.page.evaluate("fetch('http://127.0.0.1:1/').then(() => 1, () => 'refused')") == "refused"
    assert any("Trusted" in c for c in desk.complaints)
    assert any("connect" in c.lower() for c in desk.complaints)
    desk.complaints.clear()
    desk.elsewhere.clear()
