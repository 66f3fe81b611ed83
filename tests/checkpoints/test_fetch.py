"""Downloads from a server that cuts, lies and leads astray: the file is right or absent, and nothing is written elsewhere."""

import contextlib
import errno
import hashlib
import http.client
import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cpm_gen.checkpoints import fetch as module
from cpm_gen.checkpoints.download_source import Source, file_name, target_of
from cpm_gen.checkpoints.fetch import fetch
from cpm_gen.errors import ConfigError, DownloadError
from tests.http_files import Files, web_server

DATA = random.Random(1).randbytes(3_000_000)
SHA = ("sha256", hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def files() -> Iterator[Files]:
    with web_server() as files:
        yield files


def get(url: str, folder: Path, **known: Any) -> Path:
    return fetch(Source(url, "model.bin", **known), folder, pause=0.001)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() or path.is_symlink()}


def test_a_file_arrives_whole_with_its_progress(files, tmp_path):
    seen: list[tuple[int, int | None]] = []
    source = Source(files.put("/a/model.bin", DATA), "sub/model.bin", checksum=SHA)
    path = fetch(source, tmp_path / "new", lambda have, of: seen.append((have, of)))
    assert path == tmp_path / "new" / "sub" / "model.bin"
    assert path.read_bytes() == DATA
    assert names(tmp_path) == {"new/sub/model.bin"}
    assert seen[-1] == (len(DATA), len(DATA))
    assert [have for have, _ in seen] == sorted(have for have, _ in seen)
    assert stat.S_IMODE(path.stat().st_mode) & 0o111 == 0


def test_cut_connections_are_continued_where_they_were_cut(files, tmp_path):
    files.cut = [1_200_000, 0, 700_000]
    assert get(files.put("/m", DATA), tmp_path).read_bytes() == DATA
    assert files.starts() == [0, 1_200_000, 1_200_000, 1_900_000]
    assert names(tmp_path) == {"model.bin"}


def test_a_later_process_continues(files, tmp_path):
    url = files.put("/m", DATA)
    files.cut = [1_500_000, *[0] * 20]
    with pytest.raises(DownloadError, match="the same command continues after 1,500,000 bytes"):
        get(url, tmp_path)
    assert names(tmp_path) == {"model.bin.part", "model.bin.part.json"}
    files.cut, files.asked = [], []
    assert get(url, tmp_path, checksum=SHA).read_bytes() == DATA
    assert files.starts() == [1_500_000]
    assert files.asked[0][1]["if-range"] == '"one"'
    assert names(tmp_path) == {"model.bin"}


def interrupted(files: Files, folder: Path, content: bytes = DATA, **known: Any) -> str:
    """Leave the first 1,000,000 bytes of a file behind."""
    url = files.put("/m", content)
    files.cut = [1_000_000, *[0] * 20]
    with pytest.raises(DownloadError):
        get(url, folder, **known)
    files.cut, files.asked = [], []
    return url


def test_another_file_of_the_same_address_is_read_from_its_beginning(files, tmp_path):
    interrupted(files, tmp_path)
    files.tag = '"two"'
    url = files.put("/m", DATA[::-1])
    assert get(url, tmp_path).read_bytes() == DATA[::-1]


def test_a_server_without_ranges_sends_all(files, tmp_path):
    url = interrupted(files, tmp_path)
    files.ranges = False
    assert get(url, tmp_path).read_bytes() == DATA


def test_bytes_that_cannot_be_told_from_others_are_not_continued(files, tmp_path):
    files.tag = 'W/"weak"'
    url = interrupted(files, tmp_path)
    assert get(url, tmp_path).read_bytes() == DATA
    assert files.starts() == [0]


def test_bytes_of_another_address_are_not_continued(files, tmp_path):
    interrupted(files, tmp_path)
    assert get(files.put("/other", DATA[::-1]), tmp_path).read_bytes() == DATA[::-1]
    assert files.starts() == [0]


def test_wrong_bytes_from_before_are_fetched_again(files, tmp_path):
    url = interrupted(files, tmp_path)
    part = tmp_path / "model.bin.part"
    part.write_bytes(b"x" + part.read_bytes()[1:])
    assert get(url, tmp_path, checksum=SHA).read_bytes() == DATA
    assert files.starts() == [1_000_000, 0]


def test_a_part_that_is_longer_than_the_file_is_fetched_again(files, tmp_path):
    url = interrupted(files, tmp_path)
    files.put("/m", DATA[:500_000])
    assert get(url, tmp_path).read_bytes() == DATA[:500_000]


def test_a_wrong_checksum_leaves_nothing(files, tmp_path):
    url = files.put("/m", DATA[:-1] + b"x")
    with pytest.raises(DownloadError, match=f"sha256 is [0-9a-f]{{64}}, not {SHA[1]}.*deleted"):
        get(url, tmp_path, checksum=SHA)
    assert names(tmp_path) == set()
    sha1 = ("sha1", hashlib.sha1(DATA).hexdigest())
    assert get(files.put("/m", DATA), tmp_path, checksum=sha1).read_bytes() == DATA


def test_gits_id_of_a_file_is_compared(files, tmp_path):
    id = ("git", hashlib.sha1(b"blob 5\0hello").hexdigest())
    assert get(files.put("/m", b"hello"), tmp_path, size=5, checksum=id).read_bytes() == b"hello"
    with pytest.raises(DownloadError, match="git is"):
        get(files.put("/m", b"hallo"), tmp_path / "b", size=5, checksum=id)


def test_a_wrong_size_is_refused_at_once(files, tmp_path):
    with pytest.raises(DownloadError, match="has 3,000,000 bytes, not 2,999,999"):
        get(files.put("/m", DATA), tmp_path, size=2_999_999)
    assert names(tmp_path) == set()


def chunked(handler: Any, *chunks: bytes, end: bool = True) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for chunk in chunks:
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
    if end:
        handler.wfile.write(b"0\r\n\r\n")


def test_a_body_in_chunks_ends_with_its_last_chunk(files, tmp_path):
    files.special["/m"] = lambda handler: chunked(handler, DATA[:7], DATA[7:])
    assert get(files.url + "/m", tmp_path).read_bytes() == DATA
    files.special["/n"] = lambda handler: chunked(handler, DATA, end=False)
    with pytest.raises(DownloadError, match="cut, 5 times"):
        get(files.url + "/n", tmp_path / "b")
    files.special["/o"] = lambda handler: chunked(handler, DATA, b"more")
    with pytest.raises(DownloadError, match="more than 3,000,000 bytes"):
        get(files.url + "/o", tmp_path / "c", size=len(DATA))
    assert not (tmp_path / "b" / "model.bin").exists()
    assert names(tmp_path / "c") == set()


def head(handler: Any, status: int = 200, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def test_a_body_of_unknown_length_needs_a_checksum(files, tmp_path):
    files.special["/m"] = lambda handler: head(handler, body=DATA)
    with pytest.raises(DownloadError, match="does not say how long the file is; give its --sha256"):
        get(files.url + "/m", tmp_path)
    assert get(files.url + "/m", tmp_path, checksum=SHA).read_bytes() == DATA


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"Content_Type": "text/html; charset=utf-8", "Content_Length": "2", "body": b"hi"}, "is a web page"),
        ({"Content_Encoding": "gzip", "Content_Length": "2", "body": b"hi"}, "compressed"),
        ({"Content_Length": "0"}, "is empty"),
        ({"status": 404, "Content_Length": "0"}, r"is not there \(status 404\)"),
        ({"status": 403, "Content_Length": "0"}, "is not allowed"),
        ({"status": 401, "Content_Length": "0"}, "needs a login"),
        ({"status": 204}, r"status 204"),
        ({"status": 418, "Content_Length": "0"}, "status 418"),
    ],
    ids=str,
)
def test_what_is_no_file_is_refused(files, tmp_path, answer, says):
    files.special["/m"] = lambda handler: head(handler, **answer)
    with pytest.raises(DownloadError, match=says):
        get(files.url + "/m", tmp_path)
    assert len(files.asked) == 1
    assert names(tmp_path) == set()


def test_an_overloaded_server_is_asked_again_and_not_for_ever(files, tmp_path):
    url = files.put("/m", DATA)
    answers = [503, 429]

    def busy(handler: Any) -> None:
        if answers:
            head(handler, answers.pop(), Content_Length="0")
        else:
            handler.send_file(DATA)

    files.special["/m"] = busy
    assert get(url, tmp_path).read_bytes() == DATA
    files.special["/m"] = lambda handler: head(handler, 503, Content_Length="0")
    with pytest.raises(DownloadError, match="answers 503, 5 times"):
        get(url, tmp_path / "b")


def test_no_server_is_one_line(tmp_path):
    with pytest.raises(DownloadError, match="no connection"):
        get("http://127.0.0.1:1/m", tmp_path)


def test_redirects_are_followed_and_keys_stay_with_their_host(files, tmp_path):
    url = files.put("/far", DATA)
    other = url.replace("127.0.0.1", "localhost")
    files.special["/near"] = lambda handler: handler.redirect("/middle")
    files.special["/middle"] = lambda handler: handler.redirect(other)
    source = Source(files.url + "/near", "m", headers=(("Authorization", "Bearer secret"),))
    assert fetch(source, tmp_path).read_bytes() == DATA
    assert [headers.get("authorization") for _, headers in files.asked] == ["Bearer secret", "Bearer secret", None]


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x"])
def test_a_redirect_to_another_kind_of_address_is_refused(files, tmp_path, to):
    files.special["/m"] = lambda handler: handler.redirect(to)
    with pytest.raises(DownloadError):
        get(files.url + "/m", tmp_path)
    assert names(tmp_path) == set()


def test_a_protected_address_leads_to_protected_ones_only(files, tmp_path, monkeypatch):
    class WithoutTls(http.client.HTTPConnection):
        """Stands in for TLS: the server speaks plain HTTP."""

        def __init__(self, host: str, timeout: float, **_: object) -> None:
            super().__init__(host, timeout=timeout)

    monkeypatch.setattr(http.client, "HTTPSConnection", WithoutTls)
    far = files.put("/far", DATA)
    protected = files.url.replace("http:", "https:")
    files.special["/down"] = lambda handler: handler.redirect(far)
    files.special["/same"] = lambda handler: handler.redirect(f"{protected}/far")
    with pytest.raises(
        DownloadError, match=r"/down: redirects to http://127\.0\.0\.1:\d+/far; .* from https only to https"
    ):
        get(f"{protected}/down", tmp_path)
    assert names(tmp_path) == set()
    assert [path for path, _ in files.asked] == ["/down"]
    assert get(f"{protected}/same", tmp_path).read_bytes() == DATA


def test_without_a_published_checksum_nothing_is_hashed(files, tmp_path, monkeypatch):
    url = files.put("/m", DATA)
    files.cut = [1_500_000, *[0] * 20]
    with pytest.raises(DownloadError):
        get(url, tmp_path)
    files.cut, files.asked = [], []
    for name in ("new", "sha1", "sha256"):
        monkeypatch.delattr(hashlib, name)
    assert get(url, tmp_path).read_bytes() == DATA
    assert files.starts() == [1_500_000]


def test_redirects_in_a_circle_end(files, tmp_path):
    files.special["/m"] = lambda handler: handler.redirect("/m")
    with pytest.raises(DownloadError):
        get(files.url + "/m", tmp_path)
    assert len(files.asked) < 50


@pytest.mark.parametrize(
    "path", ["..", "../x", "a/../../x", "/etc/x", "a//b", "", ".", "a\\b", "a\0b", "a\nb", "x" * 300, "a/./b"], ids=repr
)
def test_a_name_that_leaves_the_folder_is_refused(files, tmp_path, path):
    with pytest.raises(ConfigError, match="not the name of a file"):
        fetch(Source(files.put("/m", DATA), path), tmp_path / "in")
    assert names(tmp_path) == set()
    assert not files.asked


def test_links_lead_nowhere(files, tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "in"
    outside.mkdir()
    inside.mkdir()
    (outside / "precious").write_text("precious")
    (inside / "sub").symlink_to(outside)
    (inside / "dangling").symlink_to(outside / "new")
    (inside / "model.bin.part").symlink_to(outside / "precious")
    url = files.put("/m", DATA)
    with pytest.raises(ConfigError, match="nothing is written outside"):
        fetch(Source(url, "sub/m"), inside)
    with pytest.raises(DownloadError, match="exists"):
        fetch(Source(url, "dangling"), inside)
    with pytest.raises(DownloadError):
        get(url, inside)
    assert names(outside) == {"precious"}
    assert (outside / "precious").read_text() == "precious"


def test_a_file_that_is_there_is_kept_if_it_is_the_right_one(files, tmp_path):
    url = files.put("/m", DATA)
    path = get(url, tmp_path)
    before = path.stat()
    files.asked = []
    assert get(url, tmp_path, checksum=SHA) == path
    assert (path.stat().st_mtime_ns, files.asked) == (before.st_mtime_ns, [])
    with pytest.raises(DownloadError, match="exists; remove it"):
        get(url, tmp_path)
    path.write_bytes(b"mine")
    with pytest.raises(DownloadError, match="another file"):
        get(url, tmp_path, checksum=SHA)
    assert path.read_bytes() == b"mine"


def test_two_downloads_of_one_file_do_not_mix(files, tmp_path):
    url = files.put("/m", DATA)
    told: list[str] = []

    def again(have: int, of: int | None) -> None:
        with contextlib.suppress(IndexError), pytest.raises(DownloadError, match="another process"):
            get(url, tmp_path)
        told.append("refused")

    assert fetch(Source(url, "model.bin"), tmp_path, again).read_bytes() == DATA
    assert told


def test_a_full_disk_keeps_what_is_there(files, tmp_path, monkeypatch):
    url = files.put("/m", DATA)

    def full(have: int, of: int | None) -> None:
        if have > 1_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DownloadError, match="the disk is full; with more room, the same command continues"):
        fetch(Source(url, "model.bin"), tmp_path, full)
    files.asked = []
    assert get(url, tmp_path).read_bytes() == DATA
    assert files.starts()[0] > 1_000_000
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DownloadError, match="needs 3,000,000 bytes, and its disk has 1,000 left"):
        get(url, tmp_path / "b")


def test_an_interrupt_keeps_what_is_there(files, tmp_path):
    url = files.put("/m", DATA)

    def stop(have: int, of: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(Source(url, "model.bin"), tmp_path, stop)
    files.asked = []
    assert get(url, tmp_path).read_bytes() == DATA
    assert files.starts()[0] > 0


@pytest.mark.parametrize(
    "url",
    ["", "model", "file:///etc/passwd", "ftp://h/x", "http://", "http:///x", "http://u:p@h/x", "http://h:x/y", "http://h/", "http://h",
     "https://[::1/x"],
)  # fmt: skip
def test_what_is_no_address_of_a_file_is_refused(url):
    with pytest.raises(ConfigError, match="must"):
        file_name(url)


def test_an_address_is_shown_in_printable_characters():
    with pytest.raises(ConfigError) as caught:
        file_name("ftp://h/\x1b[31m" + "x" * 500)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_names_of_addresses(tmp_path):
    assert file_name("https://h/a/%E6%98%A5.bin?download=true#x") == "春.bin"
    for evil in ("http://h/%2e%2e", "http://h/a%2Fb/..%2F..%2Fx", "http://h/%00"):
        with pytest.raises(ConfigError):
            target_of(tmp_path, file_name(evil))
