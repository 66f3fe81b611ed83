"""API keys, stored as hashes, and the limits of each key.

A key has 32 random bytes, so one round of SHA-256 is enough. A line of the key file is ``NAME sha256:HEX``, followed by
``streams=N`` and ``rate=N`` if the key has limits of its own; ``#`` begins a comment. ``cpm-gen serve --new-key NAME`` makes a key and
its line. The environment variable ``CPM_GEN_API_KEYS`` holds ``NAME:KEY`` pairs, separated by spaces; it is removed after it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

from cpm_gen.config.text_files import decode_text, read_bounded
from cpm_gen.errors import ConfigError
from cpm_gen.serving.errors import rate_limited, unauthenticated

VARIABLE = "CPM_GEN_API_KEYS"
_LINE = re.compile(r"(\S+)\s+sha256:([0-9a-f]{64})((?:\s+(?:streams|rate)=[0-9]{1,9})*)")


def make_key(name: str) -> tuple[str, str]:
    """Make a key; return it and its line for the key file. Raises ConfigError for a name that a line cannot hold."""
    if not re.fullmatch(r"[^\s#:]+", name):
        raise ConfigError(f"a key's name must be one word without '#' and ':', not {name!r}")
    key = "cpm-" + secrets.token_urlsafe(32)
    return key, f"{name} sha256:{_digest(key).hex()}"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


@dataclass(eq=False)
class ApiKey:
    """One user and its limits.

    streams: most requests that run at once; rate: most requests a minute. 0: no limit. open, bodies: how many run, and how many bodies
    are arriving.
    """

    name: str
    digest: bytes
    streams: int
    rate: int
    open: int = 0
    bodies: int = 0
    _tokens: float = field(default=0.0, init=False)
    _filled: float = field(default=0.0, init=False)

    def count(self) -> None:
        """Count a request. Raises ServiceError (rate_limited) if there were too many in the last minute."""
        if not self.rate:
            return
        now = time.monotonic()
        self._tokens = (
            min(self.rate, self._tokens + (now - self._filled) * self.rate / 60) if self._filled else self.rate
        )
        self._filled = now
        if self._tokens < 1:
            wait = max(1, round((1 - self._tokens) * 60 / self.rate))
            raise rate_limited("rate_limited", f"more than {self.rate} requests a minute", retry_after=wait)
        self._tokens -= 1

    def enter(self) -> None:
        """Count a running request. Raises ServiceError (rate_limited) if the key's limit is reached."""
        if self.streams and self.open >= self.streams:
            raise rate_limited("too_many_streams", f"more than {self.streams} such requests at once", retry_after=1)
        self.open += 1

    def leave(self) -> None:
        """Undo :meth:`enter`."""
        self.open -= 1

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """A context between :meth:`enter` and :meth:`leave`."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    @contextlib.contextmanager
    def receiving(self, most: int) -> Iterator[None]:
        """A context in which a request's body arrives. Raises ServiceError (rate_limited) if ``most`` others do, for a key with limits."""
        if self.streams and self.bodies >= most:
            raise rate_limited("too_many_streams", f"the bodies of {most} requests are still arriving", retry_after=1)
        self.bodies += 1
        try:
            yield
        finally:
            self.bodies -= 1


class ApiKeys:
    """All keys of a service. Without any, every request belongs to ``anonymous``, which has no limits of its own."""

    def __init__(
        self,
        path: str | None = None,
        environment: MutableMapping[str, str] | None = None,
        *,
        streams: int = 0,
        rate: int = 0,
    ) -> None:
        """Read the file and the environment; ``streams`` and ``rate`` are a key's limits by default. Raises ConfigError."""
        self._keys: list[ApiKey] = []
        self.anonymous = ApiKey("anonymous", b"", 0, 0)
        if path is not None:
            self._read(Path(path), streams, rate)
        for pair in (environment or {}).pop(VARIABLE, "").split():
            name, colon, key = pair.partition(":")
            if not (name and colon and key):
                raise ConfigError(f"{VARIABLE} must hold NAME:KEY pairs, separated by spaces")
            self._keys.append(ApiKey(name, _digest(key), streams, rate))

    def _read(self, path: Path, streams: int, rate: int) -> None:
        text = decode_text(read_bounded(path, ConfigError), str(path), ConfigError)
        for number, line in enumerate(text.split("\n"), start=1):
            line = line.partition("#")[0].strip()
            if not line:
                continue
            found = _LINE.fullmatch(line)
            limits = [item.split("=") for item in found[3].split()] if found else []
            own = {name: int(value) for name, value in limits}
            if found is None or not found[1].isprintable() or len(own) < len(limits):
                raise ConfigError(f"{path}, line {number}: must be NAME sha256:HEX [streams=N] [rate=N]")
            self._keys.append(
                ApiKey(found[1], bytes.fromhex(found[2]), own.get("streams", streams), own.get("rate", rate))
            )
        if not self._keys:
            raise ConfigError(f"{path}: holds no key; cpm-gen serve --new-key NAME makes one")

    @property
    def needed(self) -> bool:
        """Whether requests need a key."""
        return bool(self._keys)

    def find(self, authorization: str | None) -> ApiKey:
        """The key of an Authorization header. Raises ServiceError (unauthenticated). Compares every key, each in constant time."""
        if not self._keys:
            return self.anonymous
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise unauthenticated("key_missing", "this service needs an API key: Authorization: Bearer KEY")
        digest = _digest(given.strip())
        match = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                match = key
        if match is None:
            raise unauthenticated("key_unknown", "the API key is not known here")
        return match
