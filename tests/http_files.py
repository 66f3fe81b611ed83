"""A web server on loopback whose files and faults a test chooses."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Files:
    """What the server has, and what it was asked for."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []  # path and headers, in lower case
        self.cut: list[int] = []  # after how many bytes each of the next responses ends
        self.special: dict[str, Callable[[Any], None]] = {}  # answers a path in its own way
        self.tag = '"one"'
        self.ranges = True
        self.url = ""

    def put(self, path: str, content: bytes) -> str:
        """Serve a file; returns its address."""
        self.content[path] = content
        return self.url + path

    def starts(self) -> list[int]:
        """Where each request began to read."""
        return [int(h.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-")) for _, h in self.asked]


@contextlib.contextmanager
def web_server() -> Iterator[Files]:
    """Serve until the end of the block."""
    files = Files()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            files.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
            self.close_connection = True
            if path in files.special:
                files.special[path](self)
            elif path not in files.content:
                self.send_error(404)
            else:
                self.send_file(files.content[path])

        def send_file(self, content: bytes) -> None:
            first, status = 0, 200
            wanted = self.headers.get("Range", "")
            same = self.headers.get("If-Range", files.tag) == files.tag
            if wanted and files.ranges and same:
                first, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
                if first >= len(content):
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{len(content)}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            self.send_response(status)
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - first))
            self.send_header("ETag", files.tag)
            self.end_headers()
            self.wfile.write(content[first:][: files.cut.pop(0) if files.cut else None])

        def redirect(self, to: str) -> None:
            self.send_response(302)
            self.send_header("Location", to)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    files.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    try:
        yield files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hub_model(files: Files, id: str, content: dict[str, bytes], large: str = ".safetensors .bin") -> None:
    """Serve a model as the Hub does: ``/api/models/ID`` lists the files, those that end in ``large`` with their SHA-256."""
    commit = hashlib.sha1(id.encode()).hexdigest()
    siblings = []
    for name, data in content.items():
        entry: dict[str, Any] = {"rfilename": name, "size": len(data)}
        entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if name.endswith(tuple(large.split())):
            entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        siblings.append(entry)
        files.put(f"/{id}/resolve/{commit}/{name}", data)
    answer = json.dumps({"_id": "1", "id": id, "modelId": id, "sha": commit, "private": False, "siblings": siblings})

    def respond(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer.encode())

    files.special[f"/api/models/{id}"] = respond
