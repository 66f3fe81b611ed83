"""The data rules of CPM-1-Finetune-Text-Generation (``preprocess_*``, ``TextDataset``), for ``--recipe cpm1``.

Lyrics: a line and ``<eod>`` after it; the lines of one song are packed greedily into examples of at most 1,025 ids. A longer line is
reported; the original's training fails there, here it becomes examples of its own. Of the songs the last 100 are held out: 50 that are
measured during the run (dev) and 50 at its end (test). Novels: each paragraph between blank lines, its newlines deleted and without
``<eod>``, is cut by itself into consecutive examples of 1,025 ids. The last 10 paragraphs are held out, 5 and 5. Of fewer texts than that,
of which the original would train on none, a tenth is held out.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from cpm_gen.errors import ConfigError, InputError
from cpm_gen.finetuning.texts import Encoded, Ids, Source, Texts, beginning
from cpm_gen.finetuning.windows import IGNORED, Array, Rows
from cpm_gen.text.documents import read_documents
from cpm_gen.text.tokenizer import TextTokenizer

_HELD_OUT = {"lyric": 100, "novel": 10, "plain": 10}  # documents


class Cpm1Examples:
    """The examples of the recipe, each epoch in another order, as :class:`cpm_gen.finetuning.windows.Windows`.

    dev, test: the examples that are held out, as rows without padding. long_lines: lines of more than an example. Raises InputError for
    texts that cannot be read or are too few, ConfigError for shares, first lines and a vocabulary without ``<eod>``.
    """

    def __init__(self, sources: Sequence[Source], tokenizer: TextTokenizer, length: int, seed: int) -> None:
        self.length = length
        self.long_lines = 0
        self._seed = seed
        self._order = functools.lru_cache(2)(self._shuffled)
        eod = tokenizer.specials.get("<eod>")
        if eod is None:
            raise ConfigError(
                f"{tokenizer.path}: has no <eod>; the recipe cpm1 is for vocabularies of CPM, leave it out"
            )
        self._encode, self._eod = tokenizer.encode, eod
        self._pad = tokenizer.specials.get("<pad>", 0)
        self._examples: list[list[int]] = []
        self.dev: list[Rows] = []
        self.test: list[Rows] = []
        encoded = []
        for source in sources:
            if source.share is not None or source.first_line:
                raise ConfigError(f"{source.path}: the recipe cpm1 has no shares and no first lines; leave them out")
            texts = [d.text for d in read_documents(source.path, records=True) if d.text.strip()]
            if len(texts) < 2:
                raise InputError(f"{source.path}: one text between blank lines; the recipe cpm1 needs at least two")
            most = _HELD_OUT[source.style]
            held = most if len(texts) > most else max(1, len(texts) // 10)
            at, middle = len(texts) - held, len(texts) - held // 2
            cut = self._lyrics if source.style == "lyric" else self._novel
            train, dev, test = cut(texts[:at]), cut(texts[at:middle]), cut(texts[middle:])
            self._examples += train
            self.dev += map(_rows, dev)
            self.test += map(_rows, test)
            characters = sum(map(len, texts))
            begins = beginning(source, texts[at])
            encoded.append(Encoded(source, _flat(train), _flat(dev + test), len(texts), held, characters, 0, begins))
        self.texts = Texts(encoded, None)
        self.tokens = sum(len(example) - 1 for example in self._examples)
        if not self._examples:
            raise InputError("the texts have no example of two tokens; give more text")

    def _lyrics(self, songs: list[str]) -> list[list[int]]:
        most = self.length + 1
        examples = []
        for song in songs:
            example: list[int] = []
            for line in filter(str.strip, song.strip().split("\n")):
                ids = [*self._encode(line), self._eod]
                if len(example) + len(ids) <= most:
                    example += ids
                    continue
                examples.append(example)
                if long := len(ids) > most:
                    self.long_lines += 1
                    examples += _pieces(ids, most)
                example = [] if long else ids
            examples.append(example)
        return [example for example in examples if len(example) > 1]

    def _novel(self, paragraphs: list[str]) -> list[list[int]]:
        pieces = [_pieces(self._encode(text.replace("\n", "")), self.length + 1) for text in paragraphs]
        return [piece for some in pieces for piece in some if len(piece) > 1]

    def _shuffled(self, epoch: int) -> Array:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._examples))

    def epoch_windows(self) -> float:
        return float(len(self._examples))

    def rows(self, index: int, whole: bool) -> Rows:
        """An example, padded at its end; all its tokens count."""
        epoch, place = divmod(index, len(self._examples))
        example = self._examples[int(self._order(epoch)[place])]
        ids = np.full((1, self.length), self._pad, dtype=np.int64)
        targets = np.full((1, self.length), IGNORED, dtype=np.int64)
        n = len(example) - 1
        ids[0, :n], targets[0, :n] = example[:-1], example[1:]
        return Rows(ids, targets, np.arange(self.length, dtype=np.int64)[None])


def _pieces(ids: list[int], most: int) -> list[list[int]]:
    return [ids[at : at + most] for at in range(0, len(ids), most)]


def _rows(example: list[int]) -> Rows:
    ids = np.array([example], dtype=np.int64)
    return Rows(ids[:, :-1], ids[:, 1:], np.arange(len(example) - 1, dtype=np.int64)[None])


def _flat(examples: list[list[int]]) -> Ids:
    return np.array([i for example in examples for i in example], dtype=np.int32)
