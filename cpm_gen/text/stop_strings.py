"""Stop strings: what they match with a vocabulary, and where they are in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cpm_gen.text.tokenizer import Detokenizer, TextTokenizer


@dataclass(frozen=True)
class Stops:
    """What ends a text: strings, token ids; never: the stop strings that no text of the vocabulary holds."""

    strings: tuple[str, ...]
    ids: frozenset[int]
    never: tuple[str, ...]


def find_stops(stops: Sequence[str], tokenizer: TextTokenizer, detokenizer: Detokenizer) -> Stops:
    """What ``stops`` match in texts of this vocabulary.

    A stop string matches what the vocabulary writes for it as well: ``，`` may be written as ``,``. The name of a special piece
    such as ``<sep>`` matches its token, which has no text.
    """
    strings: dict[str, None] = {}
    ids: set[int] = set()
    never = []
    for stop in stops:
        strings[stop] = None
        special = tokenizer.specials.get(stop)
        if special is not None and detokenizer.push(special) != stop:
            ids.add(special)
        written = tokenizer.written(stop)
        if written:
            strings[written] = None
        elif special is None and not detokenizer.can_show(stop):
            never.append(stop)
    return Stops(tuple(strings), frozenset(ids), tuple(never))


class StopScanner:
    """Lets a text through up to the stop string that is complete first, holding back only what may still become one.

    The pieces that :meth:`push` and :meth:`flush` return join to the text before the stop string, however it was cut. Whoever
    pushes on after one was found passes it over: it is shown, and so is what follows, up to the next.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self._passed = ""  # the stop string that was found
        self.found: str | None = None

    def push(self, piece: str, look: bool = True) -> str:
        """Take the next piece; returns what may be shown. With ``look=False`` a stop string that is complete now ends nothing."""
        if self.found is not None:
            passed, self._passed, self.found = self._passed, "", None
            return passed + self.push(piece, look)
        text, self._held = self._held + piece, ""
        if not self._stops:
            return text
        hits = [(at, stop) for stop in self._stops if look and (at := text.find(stop)) >= 0]
        if hits:  # the one that is complete first, as if the text came letter by letter
            at, self.found = min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
            end = at + len(self.found)
            self._passed, self._held = text[at:end], text[end:]
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
        if self.found is not None:
            return ""
        held, self._held = self._held, ""
        return held
