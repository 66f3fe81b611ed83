"""Translations of messages by their text. The code is the one declaration of a message; an f-string there is a template::

    raise ConfigError(f"{name} must be {kind}, not {shown(value)}")     # in the code
    msgid  "{name} must be {kind}, not {value}"                         # in the catalogue; scripts/messages extracts it
    msgstr "{name!p} 须是{kind!t}，不是 {value}"

Values are shown as they are, except those with ``!t``, which are messages themselves, those with ``!p``, which are messages if they
are several words (one word is a name), and those with ``!l``, which are lists joined by "or" or "and", or ranges. A message that is not in
the catalogue stays English.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

_FOLDER = Path(__file__).parent / "locale"
_LONGEST = 4_000  # characters of a message; what is longer is a text, not a message
_PARTS = (
    48  # most parts of a text that are looked at: a text of a client may look like a thousand messages in each other
)
_PLACE = re.compile(r"\{([a-z_][a-z0-9_]*)(![tpl])?\}")
_BEHIND = re.compile(r": |(?<=\w) (?=must |is |has |needs )")  # between a file, line or field and what is said of it
_WIDE, _LATIN = re.compile(r"[一-鿿]"), re.compile(r"[-\w$'/](?<![一-鿿])")  # a space stands between the two
_ENTRY = re.compile(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n?)+)', re.MULTILINE)


class _Template:
    """A message with places for values, and its translation."""

    def __init__(self, message: str, translation: str) -> None:
        parts = _PLACE.split(message)  # text, name, conversion, text, …
        self.pieces = parts[::3]
        self.names = parts[1::3]
        self.translation = translation
        self.size = sum(map(len, self.pieces))  # without its places

    def match(self, text: str) -> list[str] | None:
        """The values, if ``text`` is this message."""
        return self._values(text, len(self.pieces[0])) if text.startswith(self.pieces[0]) else None

    def match_end(self, text: str) -> tuple[str, list[str]] | None:
        """The text before this message and the values, if ``text`` ends with it."""
        first = self.pieces[0]
        begin = text.find(first, 1) if self.names else len(text) - len(first)
        if begin < 1 or not text.startswith(first, begin):
            return None
        values = self._values(text, begin + len(first))
        return None if values is None else (text[:begin], values)

    def _values(self, text: str, at: int) -> list[str] | None:
        """What is between the pieces from ``at`` on; a value ends where the next piece first occurs."""
        if not self.names:
            return [] if at == len(text) else None
        values = []
        for piece in self.pieces[1:-1]:
            end = text.find(piece, at)
            if end < 0:
                return None
            values.append(text[at:end])
            at = end + len(piece)
        end = len(text) - len(self.pieces[-1])
        if end < at or not text.endswith(self.pieces[-1]):
            return None
        return [*values, text[at:end]]


class Catalogue:
    """The translations of one language."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        templates = [_Template(message, translation) for message, translation in entries.items()]
        self._whole = {template.pieces[0]: template.translation for template in templates if not template.names}
        self._templates = [template for template in templates if template.names]
        self._endings = [template for template in templates if template.pieces[0][:1] in set(",;:( ")]

    def translate(self, text: str) -> str:
        """The translation; ``text`` itself if there is none."""
        found = self._find(text, {}) if len(text) <= _LONGEST else None
        return text if found is None else found[1]

    def _find(self, text: str, known: dict[str, tuple[int, str] | None]) -> tuple[int, str] | None:
        """How many characters of ``text`` the best message for it has, values aside, and its translation.

        It is a message as it stands, or one behind the file, line or field that it is about, or with something appended. known: what was
        found for parts of the text.
        """
        if (whole := self._whole.get(text)) is not None:
            return len(text), whole
        if text not in known:
            if len(known) >= _PARTS:
                return None
            known[text] = None
            known[text] = max(self._candidates(text, known), key=lambda found: found[0], default=None)
        return known[text]

    def _candidates(self, text: str, known: dict[str, tuple[int, str] | None]) -> Iterator[tuple[int, str]]:
        for template in self._templates:
            if (values := template.match(text)) is not None:
                size, filled = self._filled(template, values, known)
                begins_with_another = not template.pieces[0] and ": " in values[0]
                yield size - 2 * begins_with_another, filled
        for template in self._endings:  # such as "; did you mean …?"
            if (parts := template.match_end(text)) and (begin := self._find(parts[0], known)):
                size, ending = self._filled(template, parts[1], known)
                yield begin[0] + size, begin[1] + ending
        for sign in _BEHIND.finditer(text):
            before, said = text[: sign.start()], text[sign.end() :]
            if " " in said and (rest := self._find(said, known)):  # one word may be a name
                if " " in before and (found := self._find(before, known)):
                    before = found[1]
                yield rest[0] + 1, before + ("：" if ":" in sign[0] else " ") + rest[1]
                break

    def _filled(
        self, template: _Template, values: list[str], known: dict[str, tuple[int, str] | None]
    ) -> tuple[int, str]:
        """The characters of the template and of the messages in its places, and its translation with the values."""
        given = dict(zip(template.names, values, strict=True))
        size = template.size

        def value(place: re.Match[str]) -> str:
            nonlocal size
            text, conversion = given[place[1]], place[2]
            if conversion == "!l":
                for joint, chinese in ((" or ", " 或 "), (" and ", " 和 "), (" to ", " 到 ")):
                    text = text.replace(joint, chinese)
            elif (conversion == "!t" or (conversion and " " in text)) and (found := self._find(text, known)):
                size += found[0] - 1  # a message that has these words itself is preferred
                text = found[1]
            before = template.translation[: place.start()][-1:]
            return f" {text}" if _WIDE.fullmatch(before) and _LATIN.match(text) else text

        filled = _PLACE.sub(value, template.translation)
        return size, filled


@functools.cache
def catalogue(language: str) -> Catalogue:
    """The catalogue of a language."""
    text = (_FOLDER / language / "LC_MESSAGES" / "cpm_gen.po").read_text(encoding="utf-8")
    return Catalogue(dict(read_entries(text)))


def read_entries(text: str) -> Iterator[tuple[str, str]]:
    """The entries of a .po file without plurals, contexts and obsolete ones, as ``scripts/messages`` writes it."""
    for entry in _ENTRY.finditer(text):
        message, translation = ("".join(map(json.loads, part.splitlines())) for part in entry.groups())
        if message and translation:
            yield message, translation
