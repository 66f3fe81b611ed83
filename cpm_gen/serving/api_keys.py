"""Who may use the service: API keys, kept as hashes.

A key is 32 random bytes, so one round of SHA-256 is as good as many. A line of the key file is ``NAME sha256:HEX``, with
``streams=N`` and ``rate=N`` after it where that key's limits are its own; ``#`` begins a comment. ``cpm-gen serve --new-key NAME`` makes a
key and its line. The environment variable ``CPM_GEN_API_KEYS`` holds ``NAME:KEY`` pairs, separated by spaces; it is read
once and removed.
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

from cpm_gen.errors import ConfigError
from cpm_gen.serving.errors import rate_limited, unauthenticated

VARIABLE = "CPM_GEN_API_KEYS"
_LINE = re.compile(r"(\S+)\s+sha256:([0-9a-f]{64})((?:\s+(?:streams|rate)=\d+)*)")


def make_key(name: str) -> tuple[str, str]:
    """A new key, and its line for the file; raises ConfigError for a name that a line cannot hold."""
    if not re.fullmatch(r"[^\s#:]+", name):
        raise ConfigError(f"a key's name must be one word without '#' and ':', not {name!r}")
    key = "cpm-" + secrets.token_urlsafe(32)
    return key, f"{name} sha256:{_digest(key).hex()}"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


@dataclass(eq=False)
class Key:
    """One user. streams, rate: most requests that work at once, and requests a minute; 0: no limit."""

    name: str
    digest: bytes
    streams: int
    rate: int
    open: int = 0
    _tokens: float = field(default=0.0, init=False)
    _filled: float = field(default=0.0, init=False)

    def count(self) -> None:
        """Count a request; raises ServiceError (rate_limited) where there were too many in the last minute."""
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
        """Begin what takes its time; raises ServiceError (rate_limited) where as much runs as the key may have."""
        if self.streams and self.open >= self.streams:
            raise rate_limited("too_many_streams", f"more than {self.streams} such requests at once", retry_after=1)
        self.open += 1

    def leave(self) -> None:
        """End it."""
        self.open -= 1

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """From :meth:`enter` to :meth:`leave`."""
        self.enter()
        try:
            yield
        finally:
            self.leave()


class Keys:
    """All keys. Without any everybody is ``anonymous``, bounded only by what bounds all."""

    def __init__(self, path: str | None, environment: MutableMapping[str, str], *, streams: int, rate: int) -> None:
        """Read the file and the environment; raises ConfigError."""
        self._keys: list[Key] = []
        self._anonymous = Key("anonymous", b"", 0, 0)
        if path is not None:
            self._read(Path(path), streams, rate)
        for pair in environment.pop(VARIABLE, "").split():
            name, colon, key = pair.partition(":")
            if not (name and colon and key):
                raise ConfigError(f"{VARIABLE} must hold NAME:KEY pairs, separated by spaces")
            self._keys.append(Key(name, _digest(key), streams, rate))

    def _read(self, path: Path, streams: int, rate: int) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
        for number, line in enumerate(lines, start=1):
            line = line.partition("#")[0].strip()
            if not line:
                continue
            found = _LINE.fullmatch(line)
            if found is None:
                raise ConfigError(f"{path}, line {number}: must be NAME sha256:HEX [streams=N] [rate=N]")
            own = {k: int(v) for k, v in (item.split("=") for item in found[3].split())}
            self._keys.append(
                Key(found[1], bytes.fromhex(found[2]), own.get("streams", streams), own.get("rate", rate))
            )
        if not self._keys:
            raise ConfigError(f"{path}: holds no key; cpm-gen serve --new-key NAME makes one")

    @property
    def needed(self) -> bool:
        """Whether there are any."""
        return bool(self._keys)

    def find(self, authorization: str | None) -> Key:
        """Whose request this is; raises ServiceError (unauthenticated). Every key is compared, in constant time."""
        if not self._keys:
            return self._anonymous
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
