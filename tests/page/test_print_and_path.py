"""On paper, and below a path of a proxy."""

import http.client
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from tests.page.conftest import Desk, Server, shown
from tests.page.test_long_texts import LINE, paste

pytestmark = pytest.mark.browser


def test_the_whole_text_is_printed_and_nothing_else(desk: Desk) -> None:
    paste(desk, "夜雨\n" + LINE * 300)
    desk.length(8)
    desk.press("Control+Enter")
    desk.await_state("finished")
    desk.page.emulate_media(media="print")
    seen = """() => [...document.body.querySelectorAll('*')].filter(e => e.getClientRects().length && !e.closest('#text'))
        .map(e => e.id || e.className || e.localName)"""
    assert set(desk.page.evaluate(seen)) == {"bar", "title", "rename", "scroll", "paper"}
    assert desk.page.evaluate("document.documentElement.scrollHeight") > 300 * 20
    pdf = desk.page.pdf(format="A4")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 8
    desk.page.emulate_media(media="screen")


@pytest.fixture
def below(served: Server) -> Iterator[str]:
    """The address of a proxy that has the service at /cpm/ only."""
    target = urlsplit(served.url)

    class Below(BaseHTTPRequestHandler):
        def forward(self) -> None:
            if not self.path.startswith("/cpm/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            there = http.client.HTTPConnection(target.netloc)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection", "origin")}
            there.request(self.command, self.path[4:], body or None, headers)
            answer = there.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.end_headers()
            while chunk := answer.read1(65536):
                self.wfile.write(chunk)
                self.wfile.flush()
            there.close()
            self.close_connection = True

        do_GET = do_POST = do_DELETE = forward

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Below) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}/cpm/"
        proxy.shutdown()


def test_the_page_writes_below_a_path_of_a_proxy(served: Server, below: str, open_desk: Callable[..., Desk]) -> None:
    desk = open_desk(served)
    desk.page.goto(below)
    desk.url = below
    desk.page.wait_for_selector("body[data-state]")
    desk.elsewhere.clear()
    desk.type("话说")
    desk.length(20)
    desk.press("Control+Enter")
    desk.await_state("finished")
    with served.client() as client:
        (work,) = client.get("/works").json()["works"]
        whole = client.get(f"/works/{work['id']}").json()
    assert desk.text == "话说" + shown(whole["choices"][0]["text"])
    desk.page.click("#works")
    desk.page.locator("#list .work").first.wait_for()
    desk.press("Escape")
    assert desk.elsewhere == []
