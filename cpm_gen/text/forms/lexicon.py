"""What the tokens of a vocabulary are to a form: characters, separators, or neither. One for each tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cpm_gen.config.options import RhymeBook as Book
from cpm_gen.sampling.constraints import Indices
from cpm_gen.text.forms.form import SIGNS
from cpm_gen.text.forms.line_reader import is_han
from cpm_gen.text.forms.readings import read, settled, word_beginnings, words
from cpm_gen.text.forms.rhyme_books import LEVEL, Sounds, rhyme_book
from cpm_gen.text.tokenizer import TextTokenizer

LONGEST = 6  # characters of a token; longer ones are not written
LINE_END = "\n"
TONE_BITS = {"平": 1, "仄": 2, "中": 3}


class Lexicon:
    """The tokens of one vocabulary.

    texts, readings: the characters of each token that holds nothing else, by id, and how they are read in it. length: their number,
    0 for other tokens, uint8 ``[V]``. codes: their code points, 0 after the last, int32 ``[LONGEST, V]``. signs: ids that write a
    separator, a few for some. zero: ids without width, such as the bare ``▁`` that stands before a sign. single: the id of a
    character by itself, the lowest.
    """

    def __init__(
        self, tokenizer: TextTokenizer, lines: bool, vocabulary: int, banned: frozenset[int] = frozenset()
    ) -> None:
        """lines: the style reads the token that ends a line as a newline. banned: ids that are never written."""
        special = {*tokenizer.specials.values(), *tokenizer.holes, *banned}
        surfaces = {i: tokenizer.surface(i) for i in range(min(tokenizer.size, vocabulary)) if i not in special}
        self.texts = {i: s for i, s in surfaces.items() if 0 < len(s) <= LONGEST and all(map(is_han, s))}
        self.readings = {i: tuple(read(text)) for i, text in self.texts.items()}
        self.length = np.zeros(vocabulary, dtype=np.uint8)
        self.codes = np.zeros((LONGEST, vocabulary), dtype=np.int32)
        for i, text in self.texts.items():
            self.length[i] = len(text)
            for at, c in enumerate(text):
                self.codes[at, i] = ord(c)
        self.signs: dict[str, Indices] = {}
        probe = set()
        for sign in (*SIGNS, LINE_END):
            written = {sign, tokenizer.written(sign)}
            self.signs[sign] = np.array([i for i, s in surfaces.items() if s in written], dtype=np.intp)
            probe |= set(tokenizer.encode(sign))
        if lines or not len(self.signs[LINE_END]):
            self.signs[LINE_END] = np.array(sorted(tokenizer.breaks - banned), dtype=np.intp)
        self.zero = np.array(sorted(i for i in probe if surfaces.get(i) == ""), dtype=np.intp)
        self.single: dict[str, int] = {}
        containing: dict[str, list[int]] = {}
        prefixes: dict[str, list[int]] = {}
        for i, text in self.texts.items():
            if len(text) == 1:
                self.single.setdefault(text, i)
            for c in set(text):
                containing.setdefault(c, []).append(i)
            for at in range(1, min(len(text), 4) + 1):
                prefixes.setdefault(text[:at], []).append(i)
        self.containing: Mapping[str, Indices] = {c: np.array(ids, dtype=np.intp) for c, ids in containing.items()}
        self.starting: Mapping[str, Indices] = {p: np.array(ids, dtype=np.intp) for p, ids in prefixes.items()}

    def misread_after(self, run: str, readings: tuple[str | None, ...]) -> list[Indices]:
        """Tokens that make a word with the end of ``run`` in which a character is read otherwise than in its token.

        run: three characters at most, with their ``readings``.
        """
        found = [self._misread(run[-at:], readings[-at:]) for at in range(1, len(run) + 1)]
        return [ids for ids in found if len(ids)]

    @functools.lru_cache(maxsize=16384)  # noqa: B019
    def _misread(self, beginning: str, readings: tuple[str | None, ...]) -> Indices:
        """Tokens that make a word with the whole of ``beginning``, in which one of the two is read otherwise."""
        known, at = words(), len(beginning)
        found = [
            self._beginning(word[at:], None if known[word][:at] != readings else known[word][at:])
            for word in word_beginnings().get(beginning, ())
        ]
        return np.concatenate(found) if found else np.empty(0, dtype=np.intp)

    @functools.lru_cache(maxsize=16384)  # noqa: B019
    def _beginning(self, text: str, readings: tuple[str, ...] | None) -> Indices:
        """Tokens that begin with ``text``; with readings, those that read it otherwise."""
        ids = self.starting.get(text, np.empty(0, dtype=np.intp))
        if readings is None:
            return ids
        return np.array([i for i in ids if self.readings[int(i)][: len(text)] != readings], dtype=np.intp)

    @property
    def size(self) -> int:
        """The number of ids."""
        return len(self.length)

    @functools.cached_property
    def spelled(self) -> NDArray[np.bool_]:
        """Tokens each of whose characters is a token by itself, bool ``[V]``."""
        found = np.zeros(self.size, dtype=np.bool_)
        found[[i for i, text in self.texts.items() if all(c in self.single for c in text)]] = True
        return found

    @functools.cached_property
    def repeating(self) -> Indices:
        """Tokens that hold a character twice."""
        return np.array([i for i, text in self.texts.items() if len(set(text)) < len(text)], dtype=np.intp)

    @functools.cache  # noqa: B019  a lexicon lives as long as its model
    def sounds(self, book: Book, lenient: bool, neutral: bool) -> Sounding:
        """The tones and rhymes of the tokens in a book."""
        return Sounding(self, book, lenient, neutral)


class Sounding:
    """The tones and rhymes of a lexicon's tokens in one book.

    tones: bits of ``TONE_BITS`` for each character of each token, uint8 ``[LONGEST, V]``. last: tones and groups of the last character
    by id. ending: ids of tokens whose last character has a tone and a group. pool: the characters that are tokens by
    themselves, by tone and group.
    """

    def __init__(self, lexicon: Lexicon, book: Book, lenient: bool, neutral: bool) -> None:
        table = rhyme_book(book)

        @functools.cache
        def sounds(character: str, reading: str | None, in_word: bool) -> tuple[Sounds, int]:
            found = table.sounds(character, reading, lenient=lenient, neutral=neutral, settled=in_word)
            return found, sum({TONE_BITS[tone] for tone, _ in found})

        self.groups = table.groups
        self.tones = np.zeros((LONGEST, lexicon.size), dtype=np.uint8)
        self.last: dict[int, Sounds] = {}
        ending: dict[tuple[str, str], list[int]] = {}
        pool: dict[tuple[str, str], set[str]] = {}
        for i, text in lexicon.texts.items():
            for at, (c, reading) in enumerate(zip(text, lexicon.readings[i], strict=True)):
                found, bits = sounds(c, reading, settled(text, at, reading))
                self.tones[at, i] = bits
            self.last[i] = found
            for tone, group in found:
                if group:
                    ending.setdefault((tone, group), []).append(i)
                    if len(text) == 1:
                        pool.setdefault((tone, group), set()).add(text)
        self.ending: Mapping[tuple[str, str], Indices] = {k: np.array(v, dtype=np.intp) for k, v in ending.items()}
        self.pool: Mapping[tuple[str, str], frozenset[str]] = {k: frozenset(v) for k, v in pool.items()}
        self.of_tone = {
            tone: frozenset(c for c, i in lexicon.single.items() if self.tones[0, i] & TONE_BITS[tone])
            for tone in (LEVEL, "仄")
        }
