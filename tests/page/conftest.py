"""A real Chromium at a real server. Whatever the page complains of on its console fails the test."""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, Route, expect, sync_playwright

from tests.service_process import Server, direct, serving, start, until  # noqa: F401

# a machine that is busy with something else takes its time
PATIENCE = 60_000
expect.set_options(timeout=PATIENCE)
FLAGS = [
    "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def launch(playwright: Playwright) -> Browser:
    """Debian's Chromium, or the one that CHROMIUM names."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "the page's tests need a Chromium: apt-get install chromium, or CHROMIUM=/path/to/it"
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    return playwright.chromium.launch(executable_path=path, args=FLAGS + sandbox)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def served() -> Iterator[Server]:
    """A server that tests share and leave empty. Its window is small, so that it slides early."""
    with serving("--window-limit", "64", "--keep-alive", "1") as server:
        yield server


def shown(text: str) -> str:
    """A text of the service as the page shows it: the end of a document is a line break."""
    return text.replace("<eod>", "\n")


class Desk:
    """The page as its reader meets it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((self.url, "blob:")) else self.elsewhere.append(r.url))

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)

    def open(self) -> "Desk":
        self.page.goto(self.url)
        expect(self.page.locator("body[data-state]")).to_be_attached()
        return self

    def reload(self) -> None:
        """The page, and the settings that it asks the service for."""
        self.page.reload()
        expect(self.page.locator("body[data-state]")).to_be_attached()

    def type(self, words: str) -> None:
        """At the end of the text, as keys or an input method give it."""
        self.page.locator("#text").focus()
        self.page.keyboard.press("Control+End")
        self.page.keyboard.insert_text(words)

    def route(self, url: str, handler: Callable[[Route], object], times: int | None = None) -> None:
        """As Playwright's, and from now on: an open page's first route reaches its requests some moments after the call returns."""
        self.page.route(url, handler, times=times)
        heard: list[Route] = []
        self.page.route("**/heard", lambda route: (heard.append(route), route.abort()))
        until(lambda: self.page.evaluate("fetch('/heard').then(() => null, () => null)") or heard)
        self.page.unroute("**/heard")

    def length(self, tokens: int | None) -> None:
        self.page.evaluate(
            """n => { const s = document.querySelector('[name=max_new_tokens]'); const v = n === null ? '' : String(n);
            if (![...s.options].some(o => o.value === v)) s.add(new Option(v, v)); s.value = v;
            s.dispatchEvent(new Event('input', {bubbles: true})) }""",
            tokens,
        )

    def press(self, keys: str) -> None:
        self.page.keyboard.press(keys)

    def await_state(self, *states: str) -> None:
        expect(self.page.locator(", ".join(f'body[data-state="{s}"]' for s in states))).to_be_attached(timeout=PATIENCE)

    @property
    def text(self) -> str:
        return str(self.page.evaluate("document.getElementById('text').textContent"))

    def painted(self, name: str) -> list[list[int]]:
        """From where to where a highlight goes."""
        script = """n => { const text = document.getElementById('text'), at = (node, offset) => {
            const range = document.createRange(); range.setStart(text, 0); range.setEnd(node, offset); return range.toString().length };
            return [...CSS.highlights.get(n)].map(r => [at(r.startContainer, r.startOffset), at(r.endContainer, r.endOffset)]) }"""
        return list(self.page.evaluate(script, name))

    def await_length(self, characters: int) -> None:
        self.page.wait_for_function("n => document.getElementById('text').textContent.length >= n", arg=characters)

    @property
    def words(self) -> str:
        """What the model wrote."""
        text = self.text
        return "".join(text[a:b] for a, b in self.painted("model"))

    def works(self) -> list[dict[str, Any]]:
        """What the service keeps."""
        return list(self.page.evaluate("fetch('/works').then(r => r.json())")["works"])

    def work(self) -> dict[str, Any]:
        """The newest of them, whole."""
        return dict(self.page.evaluate("id => fetch('/works/' + id).then(r => r.json())", self.works()[0]["id"]))


def clear(server: Server) -> None:
    """Its works are gone."""
    with server.client() as client:
        for work in client.get("/works").json()["works"]:
            client.delete(f"/works/{work['id']}")


@pytest.fixture
def open_desk(browser: Browser, served: Server) -> Iterator[Callable[..., Desk]]:
    """Open the page in a browser of its own; at the end it must have had nothing to complain of, and the shared service is empty."""
    with contextlib.ExitStack() as stack:
        stack.callback(clear, served)
        desks: list[Desk] = []

        def open_desk(server: Server, context: BrowserContext | None = None, **options: Any) -> Desk:
            if context is None:
                context = browser.new_context(**({"locale": "zh-CN"} | options))
                stack.callback(context.close)
            desk = Desk(context.new_page(), server.url)
            desks.append(desk)
            return desk.open()

        yield open_desk
        for desk in desks:
            assert desk.complaints == []
            assert desk.elsewhere == []


@pytest.fixture
def desk(served: Server, open_desk: Callable[..., Desk]) -> Desk:
    """An empty page at the shared service."""
    return open_desk(served)
