"""Stop strings in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopScanner:
    """Lets a text through up to the stop string that is complete first, holding back only what may still become one.

    The pieces that :meth:`push` and :meth:`flush` return join to the text before the stop string, however it was cut.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def push(self, piece: str, look: bool = True) -> str:
        """Take the next piece; returns what may be shown. With ``look=False`` a stop string that is complete now ends nothing."""
        if self.found is not None:
            return ""
        text, self._held = self._held + piece, ""
        if not self._stops:
            return text
        hits = [(at, stop) for stop in self._stops if look and (at := text.find(stop)) >= 0]
        if hits:  # the one that is complete first, as if the text came letter by letter
            at, self.found = min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
            return text[:at]
        hold = max(self._partial(text, stop) for stop in self._stops)
        cut = len(text) - hold
        self._held = text[cut:]
        return text[:cut]

    @staticmethod
    def _partial(text: str, stop: str) -> int:
        """Length of the longest end of ``text`` that begins ``stop``."""
        return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-n:])), 0)

    def flush(self) -> str:
        """The end of the text: what was held back was no stop string."""
        held, self._held = self._held, ""
        return "" if self.found is not None else held
