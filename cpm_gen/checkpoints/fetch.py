"""Downloads one file over HTTP: resumed after a cut, verified, and under its name only when it is complete.

The bytes go to ``NAME.part`` beside the target; ``NAME.part.json`` notes where they came from. Both stay after an interruption, and the
next call continues. The target appears by a rename within its folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import cpm_gen
from cpm_gen.checkpoints.download_source import OPENER, Source, file_name, target_of
from cpm_gen.errors import DownloadError

_CHUNK = 2**20
_ATTEMPTS = 5  # in a row that bring less than a chunk
_TIMEOUT = 30.0  # seconds without a byte
_MAY_PASS = {408, 425, 429, 500, 502, 503, 504}

Progress = Callable[[int, int | None], None]  # bytes that are there, and of how many


def fetch(source: Source, folder: Path, progress: Progress | None = None, pause: float = 1.0) -> Path:
    """Download a file into a folder, which is created, and return its path. A file that is there already is verified and kept.

    pause: seconds before the second attempt; doubled for each further one. Raises DownloadError, ConfigError.
    """
    file_name(source.url)
    target = target_of(folder, source.path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target = target_of(folder, source.path)
        if target.is_symlink() or target.exists():
            _check_present(target, source)
            return target
        with _locked_part(target) as part:
            download = _Download(source, target, part, progress or (lambda *_: None))
            try:
                download.run(pause)
            except DownloadError:
                download.discard_if_empty()
                raise
            part.flush()
            os.fsync(part.fileno())
            Path(f"{target}.part").replace(target)
            download.forget()
        return target
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f"{target}: the disk is full; with more room, the same command continues") from None
        raise DownloadError(f"{error.filename or target}: {error.strerror or error}") from None


def _check_present(target: Path, source: Source) -> None:
    if not target.is_file():
        raise DownloadError(f"{target}: exists and is not a file")
    if source.checksum is None or _digest(target, source).hexdigest() != source.checksum[1]:
        what = "exists" if source.checksum is None else f"exists and is another file ({source.checksum[0]} differs)"
        raise DownloadError(f"{target}: {what}; remove it, or give --to another folder")


@contextlib.contextmanager
def _locked_part(target: Path) -> Iterator[IO[bytes]]:
    """The file for the bytes of ``target``, which no other process may write at the same time."""
    name = Path(f"{target}.part")
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with os.fdopen(os.open(name, flags, 0o666), "r+b") as part:
        if not stat.S_ISREG(os.fstat(part.fileno()).st_mode):
            raise DownloadError(f"{name}: is not a file")
        try:
            import fcntl
        except ModuleNotFoundError:  # Windows
            yield part
            return
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(f"{name}: another process downloads this file") from None
        if not name.exists() or not os.path.samestat(os.fstat(part.fileno()), name.stat()):
            raise DownloadError(f"{target}: another process has just downloaded this file")
        yield part


class _Interrupted(Exception):
    """The transfer ended early; another attempt may continue it."""


class _Download:
    """One file on its way."""

    def __init__(self, source: Source, target: Path, part: IO[bytes], progress: Progress) -> None:
        self._source = source
        self._target = target
        self._part = part
        self._progress = progress
        self._notes = Path(f"{target}.part.json")
        self._validator: str | None = None  # ETag or Last-Modified of the bytes that are there
        self._size = source.size
        self._have = 0
        self._hash = _new_hash(self._source)
        self._resumed = False

    def run(self, pause: float) -> None:
        """Transfer and verify."""
        self._take_over()
        failures = 0
        while True:
            before = self._have
            try:
                self._transfer()
                if self._verified():
                    return
                failures = 0
                continue
            except _Interrupted as error:
                failures = 1 if self._have - before >= _CHUNK else failures + 1
                if failures >= _ATTEMPTS:
                    raise DownloadError(
                        f"{self._source.url}: {error}, {_ATTEMPTS} times; the same command continues after {self._have:,} bytes"
                    ) from None
            time.sleep(pause * 2 ** (failures - 1))

    def _take_over(self) -> None:
        """Continue what an earlier process began, if it had the same source and the bytes can be told from others."""
        have = os.fstat(self._part.fileno()).st_size
        with contextlib.suppress(OSError, ValueError, TypeError):
            notes = json.loads(self._notes.read_text(encoding="utf-8"))
            self._validator = notes["validator"] if isinstance(notes["validator"], str) else None
            if have and notes["url"] == self._source.url and (self._validator or self._source.checksum):
                self._hash = _digest(Path(f"{self._target}.part"), self._source)
                self._have, self._resumed = have, True
                return
        self._restart()

    def _restart(self) -> None:
        self._part.seek(0)
        self._part.truncate()
        self._have, self._hash, self._validator, self._resumed = 0, _new_hash(self._source), None, False
        self._size = self._source.size

    def _verified(self) -> bool:
        """Compare the checksum. False: earlier bytes may be of another file, and the transfer begins again."""
        if self._source.checksum is None or self._hash.hexdigest() == self._source.checksum[1]:
            return True
        found, resumed = self._hash.hexdigest(), self._resumed
        self._restart()
        if resumed:
            return False
        self._discard()
        kind, wanted = self._source.checksum
        raise DownloadError(
            f"{self._source.url}: {kind} is {found}, not {wanted}: another file, or a damaged one; it was deleted"
        )

    def _transfer(self) -> None:
        """One request. Raises _Interrupted, DownloadError."""
        headers = dict(self._source.headers) | {
            "User-Agent": f"cpm-gen/{cpm_gen.__version__}",
            "Accept-Encoding": "identity",
        }
        if self._have:
            if self._have == self._size:
                return
            headers["Range"] = f"bytes={self._have}-"
            if self._validator:
                headers["If-Range"] = self._validator
        request = urllib.request.Request(self._source.url, headers=headers)
        try:
            with OPENER.open(request, timeout=_TIMEOUT) as response:
                self._begin(response)
                self._receive(response)
        except urllib.error.HTTPError as error:
            error.close()
            self._refused(error.code)
        except (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError) as error:
            raise _Interrupted(_reason(error)) from None

    def _refused(self, status: int) -> None:
        if status == 416 and self._have:  # what is there is not the beginning of this file
            self._restart()
            raise _Interrupted("the server's file is shorter than what was there")
        if status in _MAY_PASS:
            raise _Interrupted(f"the server answers {status}")
        why = {401: "needs a login", 403: "is not allowed to you", 404: "is not there", 410: "is gone"}
        raise DownloadError(f"{self._source.url}: {why.get(status, 'was refused')} (status {status})")

    def _begin(self, response: Any) -> None:
        """Read the head of a response; begin again where it is not the rest of what is there."""
        headers: Mapping[str, str] = response.headers
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == "text/html" and not self._source.path.endswith((".html", ".htm")):
            self._discard()
            raise DownloadError(
                f"{self._source.url}: is a web page, not a file; a page of a browser must be opened first, perhaps"
            )
        if headers.get("Content-Encoding", "identity").lower() != "identity":
            raise DownloadError(
                f"{self._source.url}: the server sends the file compressed, though that was not asked for"
            )
        total = _number(headers.get("Content-Length"))
        if response.status == 206:
            range_ = headers.get("Content-Range", "").removeprefix("bytes ")
            first, _, size = range_.partition("/")
            if _number(first.partition("-")[0]) != self._have:
                self._restart()
                raise _Interrupted("the server sends another part of the file")
            total = _number(size)
        elif response.status == 200:
            self._restart()
        else:
            raise DownloadError(f"{self._source.url}: was refused (status {response.status})")
        chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        if total is None and not chunked and self._size is None and self._source.checksum is None:
            self._discard()
            raise DownloadError(f"{self._source.url}: the server does not say how long the file is; give its --sha256")
        if total is not None and self._source.size is not None and total != self._source.size:
            self._discard()
            raise DownloadError(
                f"{self._source.url}: has {total:,} bytes, not {self._source.size:,}: it is another file"
            )
        self._size = total if total is not None else self._source.size
        self._note(headers)
        free = shutil.disk_usage(self._target.parent).free
        if self._size is not None and self._size - self._have > free:
            need = self._size - self._have
            raise DownloadError(f"{self._target}: needs {need:,} bytes, and its disk has {free:,} left")

    def _note(self, headers: Mapping[str, str]) -> None:
        tag = headers.get("ETag", "")
        self._validator = tag if tag.startswith('"') else headers.get("Last-Modified")
        self._notes.write_text(json.dumps({"url": self._source.url, "validator": self._validator}), encoding="utf-8")

    def _receive(self, response: Any) -> None:
        self._part.seek(self._have)
        try:
            while block := response.read(_CHUNK):
                if self._size is not None and self._have + len(block) > self._size:
                    self._discard()
                    raise DownloadError(f"{self._source.url}: has more than {self._size:,} bytes: it is another file")
                self._part.write(block)
                if self._hash is not None:
                    self._hash.update(block)
                self._have += len(block)
                self._progress(self._have, self._size)
        finally:
            self._part.flush()
        if self._size is not None and self._have < self._size:
            raise _Interrupted("the connection was cut")
        if not self._have:
            self._discard()
            raise DownloadError(f"{self._source.url}: is empty")

    def _discard(self) -> None:
        """Remove what was written: it is not the file."""
        Path(f"{self._target}.part").unlink(missing_ok=True)
        self.forget()

    def discard_if_empty(self) -> None:
        """Remove what was written where that is nothing."""
        if not self._have:
            self._discard()

    def forget(self) -> None:
        """Remove the notes."""
        self._notes.unlink(missing_ok=True)


def _new_hash(source: Source) -> Any:
    """A hash of the kind of the published checksum; None where none was published, because nothing is compared then."""
    if source.checksum is None:
        return None
    kind = source.checksum[0]
    if kind != "git":
        return hashlib.new(kind, usedforsecurity=False)
    return hashlib.sha1(b"blob %d\0" % (source.size or 0), usedforsecurity=False)


def _digest(path: Path, source: Source) -> Any:
    found = _new_hash(source)
    if found is None:
        return None
    with path.open("rb") as file:
        while block := file.read(_CHUNK):
            found.update(block)
    return found


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isascii() and text.strip().isdigit() else None


def _reason(error: Exception) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(inner, TimeoutError):
        return f"nothing came for {_TIMEOUT:g} seconds"
    if isinstance(inner, http.client.HTTPException):
        return "the connection was cut"
    return f"no connection ({getattr(inner, 'strerror', None) or inner})"
