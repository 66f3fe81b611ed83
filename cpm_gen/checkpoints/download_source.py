"""What is downloaded: an address, the name below a folder, and what is known of the bytes. And how addresses are opened."""

from __future__ import annotations

import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from cpm_gen.config.arguments import one_line
from cpm_gen.errors import ConfigError, DownloadError

_SHOWN = 100  # most characters of an address or a path in an error


@dataclass(frozen=True)
class Source:
    """A file to download.

    Args:
        url: its address, http or https.
        path: where it goes below the target folder; parts are separated by ``/``.
        size: its bytes, if they are known.
        checksum: ``sha256``, ``sha1`` or ``git`` (git's id of the file, which needs the size), and the hexadecimal digest, if known.
        headers: further headers, which are not sent to another host after a redirect.
    """

    url: str
    path: str
    size: int | None = None
    checksum: tuple[str, str] | None = None
    headers: tuple[tuple[str, str], ...] = ()


def file_name(url: str) -> str:
    """The name that a URL gives its file; raises ConfigError where it gives none, or no http."""
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError
        _ = parts.port
    except ValueError:
        raise ConfigError(
            f"{one_line(url, _SHOWN)}: must be an address like https://host/folder/file, without a user's name"
        ) from None
    name = unquote(parts.path.rpartition("/")[2], errors="replace")
    if not name:
        raise ConfigError(f"{one_line(url, _SHOWN)}: must end with the name of a file")
    return name


def target_of(folder: Path, path: str) -> Path:
    """Where a file goes; raises ConfigError for a path that leaves the folder, or that no file system takes."""
    for part in path.split("/"):
        bad = (
            part in ("", ".", "..")
            or "\\" in part
            or not part.isprintable()
            or len(part.encode("utf-8", "replace")) > 240
        )
        if bad or (os.name == "nt" and ":" in part):
            raise ConfigError(f"{one_line(path, _SHOWN)!r} is not the name of a file in the folder")
    target = folder.joinpath(*path.split("/"))
    if not target.parent.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{target.parent} is a link to another folder; nothing is written outside {folder}")
    return target


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https, never from https to http; keys stay with the host that they are for."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The next request."""
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if after.scheme not in ("http", "https") or (before.scheme, after.scheme) == ("https", "http"):
            raise DownloadError(
                f"{req.full_url}: redirects to {one_line(newurl, _SHOWN)}; a download follows redirects to http and https, and from "
                "https only to https"
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and before.netloc != after.netloc:
            request.remove_header("Authorization")
        return request


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS only: no address reads a local file."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler, urllib.request.UnknownHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler, _Redirects, urllib.request.HTTPErrorProcessor,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


OPENER = _opener()
